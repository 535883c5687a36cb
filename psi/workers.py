"""Spreads the work on one list over several workers; this module knows nothing of the work.

Threads are the default, because the work releases the interpreter lock and nothing has to be
copied. An executor (`psi.executors`: processes, or a cluster) can run the expensive part instead;
each thread here then only waits for one call at a time.

All threads belong to one pool of the process. GMP's Python binding keeps caches per thread that are
never freed, so a new pool for each call would leak memory in a process that runs for months.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

from psi.errors import FaultError, PSIError
from psi.executors import open_pool
from psi.executors.pool import Work, call, wrong

Items = TypeVar("Items", bound=Sequence[Any])
Result = TypeVar("Result")
Rows = TypeVar("Rows", bound=Sequence[Any])

_MOST_THREADS = 256  # in the pool, which starts one only if none is idle
_WORTH_A_THREAD = 16  # with fewer items per thread, starting it costs more than it saves
_WORTH_A_CALL = 128  # the same for a call of an executor


def usable_cores() -> int:
    """Return how many cores this process may use; in a container, the machine can have more."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count(workers: int | None) -> int:
    """Return the number of workers to use, which is one per usable core for None."""
    if workers is None:
        return usable_cores()
    if workers < 1:
        raise ValueError("workers must be at least 1")
    return workers


@cache
def shared_pool() -> ThreadPoolExecutor:
    """Return the pool of threads that compute for all runs of this process.

    Work in the pool must not wait for other work in the pool, because then all threads could wait.
    """
    return ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="psi")


if hasattr(os, "register_at_fork"):  # a child process inherits the pool without its threads
    os.register_at_fork(after_in_child=shared_pool.cache_clear)


class Workers:
    """Runs a number of calls concurrently, in threads of this process or through an executor.

    Args:
        workers: the number of concurrent calls; None means as many as the executor says that it
            has, or else one per usable core.
        executor: runs the calls; `psi.executors.open_pool` says what it may be. None means this
            process. What was opened by an address is closed by `close`.
    """

    def __init__(self, workers: int | None, executor: object = None) -> None:
        self._pool = open_pool(executor)
        self._opened = isinstance(executor, str)
        slots = self._pool.slots if self._pool is not None and workers is None else 0
        self.count = slots or worker_count(workers)

    @property
    def pooled(self) -> bool:
        """Whether an executor was given."""
        return self._pool is not None

    def call(self, work: Work, *parts: bytes) -> bytes:
        """Return `work(*parts)`, computed here or by the executor; its exceptions are raised
        here.
        """
        return work(*parts) if self._pool is None else call(self._pool, work, parts)

    def wrong(self) -> PSIError:
        """Return the error for a result that does not hold: it blames the executor, if there is
        one.
        """
        if self._pool is None:
            return FaultError("a result of this machine came out wrong; nothing of it was used")
        return wrong(self._pool)

    def spread(self, work: Callable[[Items], Result], items: Items) -> list[Result]:
        """Run `work` in threads here, as the function `spread` does; `work` may use `call`."""
        return spread(work, items, self.count, _WORTH_A_CALL if self.pooled else _WORTH_A_THREAD)

    def close(self) -> None:
        """Close the executor if it was opened here."""
        if self._pool is not None and self._opened:
            self._pool.close()


def rows_of(rows: range, data: Rows, width: int = 1) -> Rows:
    """Return these rows of a sequence, or of bytes that hold `width` bytes for each row.

    Args:
        rows: numbers that follow each other.
        data: all rows.
        width: the number of elements of one row.
    """
    return data[rows.start * width : rows.stop * width]  # type: ignore[return-value]


def spread(
    work: Callable[[Items], Result],
    items: Items,
    workers: int,
    least: int = _WORTH_A_THREAD,
) -> list[Result]:
    """Call `work` on contiguous parts of `items`, each in a thread, and return the results in
    order.

    The calling thread computes the first part. An exception is raised after all parts have ended.
    """
    parts = max(1, min(workers, len(items) // least))
    size = -(-len(items) // parts) if items else 1
    slices: list[Any] = [items[at : at + size] for at in range(0, len(items), size)]
    if len(slices) < 2:
        return [work(part) for part in slices]
    others = [shared_pool().submit(work, part) for part in slices[1:]]
    try:
        first = work(slices[0])
    finally:
        wait(others)
    return [first, *(other.result() for other in others)]
