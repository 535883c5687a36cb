"""Runs calls through an executor object that the caller owns."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)

from psi.errors import ExecutorError
from psi.executors.pool import Pool, Work, WorkerLostError


class Given(Pool):
    """Any `concurrent.futures.Executor`, which is not shut down here.

    Only the two executors of the standard library are known to stay on this machine.
    """

    slots = 0

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.name = f"the executor ({type(executor).__name__})"
        self.elsewhere = not isinstance(executor, ProcessPoolExecutor | ThreadPoolExecutor)

    def attempt(self, work: Work, parts: Sequence[bytes], seconds: float) -> object:
        """See `Pool.attempt`."""
        try:
            future = self._executor.submit(work, *parts)
        except RuntimeError as error:  # it was shut down, or it broke with an earlier chunk
            raise self._gone(error) from error
        try:
            return future.result(timeout=seconds)
        except BrokenExecutor as error:  # it takes no more work, so there is nothing to retry
            raise self._gone(error) from error
        except CancelledError:
            raise WorkerLostError from None
        finally:
            future.cancel()

    def _gone(self, error: Exception) -> ExecutorError:
        return ExecutorError(
            f"{self.name} takes no more work ({type(error).__name__}): make a new one; with"
            ' executor="processes:8", processes that die are replaced'
        )
