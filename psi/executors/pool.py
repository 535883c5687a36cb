"""Defines what every executor can do, and calls it with retries and a deadline.

A call is a function at the top of a module of `psi` with arguments and a result that are bytes. So
nothing that a peer sent is ever taken for code, and a result that is anything else is refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from psi.errors import ExecutorError, PSIError, WorkerError

TRIES = 4
"""The number of workers that may die over one chunk before its executor is given up."""

CALL_SECONDS = 120.0
"""The longest time for one chunk, which takes a worker a few seconds at most."""

CONNECT_SECONDS = 30.0
"""The longest time until a scheduler answers for the first time."""

Work = Callable[..., bytes]


class WorkerLostError(Exception):
    """The worker that had a chunk is gone; another one may be asked."""


class Pool(ABC):
    """Runs calls in other processes or on other machines. Several threads may use it.

    Attributes:
        name: how errors name it, such as "dask://scheduler:8786".
        slots: how many calls it runs at once; 0 means that it does not say.
        elsewhere: whether calls may run on another machine.
    """

    name: str
    slots: int
    elsewhere: bool

    @abstractmethod
    def attempt(self, work: Work, parts: Sequence[bytes], seconds: float) -> object:
        """Call `work` with the parts in a worker, once, and return its result.

        Raises:
            WorkerLostError: the worker was lost.
            TimeoutError: there was no result within the seconds.
            ExecutorError: the executor itself is gone.
        """

    def close(self) -> None:  # noqa: B027
        """Give back what this object has started or connected to."""


def call(pool: Pool, work: Work, parts: Sequence[bytes]) -> bytes:
    """Return the result of `work` in a worker; an error of psi that it raises is raised here.

    Raises:
        WorkerError: workers were lost over this chunk `TRIES` times, the worker failed in another
            way, or the result is no bytes.
        ExecutorError: the executor is gone, or did not answer within `CALL_SECONDS`.
    """
    for _ in range(TRIES):
        try:
            result = pool.attempt(work, parts, CALL_SECONDS)
        except WorkerLostError:
            continue
        except TimeoutError:
            raise ExecutorError(
                f"{pool.name} gave no result within {CALL_SECONDS:.0f} s; see whether its"
                " scheduler and workers run and have room"
            ) from None
        except PSIError:
            raise
        except Exception as error:  # whatever it is, its text may hold ids
            raise failed(pool, type(error).__name__) from None
        if not isinstance(result, bytes):
            raise wrong(pool)
        return result
    raise WorkerError(
        f"{pool.name} lost its worker {TRIES} times over the same chunk; see the workers' logs,"
        " where memory is the usual cause"
    )


def library(name: str, extra: str, address: str) -> Any:
    """Return the module of an executor's library.

    Args:
        name: the name of the module.
        extra: the extra of heterofed that installs it.
        address: the address of the executor, for the error.

    Raises:
        ExecutorError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ExecutorError(
            f"{address} needs an extra: pip install 'heterofed[{extra}]'"
        ) from error


def failed(pool: Pool, what: str) -> WorkerError:
    """Return the error for a worker that raised something else than an error of psi.

    Args:
        pool: the pool of the worker.
        what: the type of the error.
    """
    return WorkerError(
        f"a worker of {pool.name} failed with {what}; install the same version of heterofed and its"
        " libraries on all workers, or leave the executor out"
    )


def wrong(pool: Pool) -> WorkerError:
    """Return the error for a worker whose result does not hold."""
    return WorkerError(
        f"a worker of {pool.name} returned wrong bytes; install the same version of heterofed and"
        " its libraries on all workers, or leave the executor out"
    )
