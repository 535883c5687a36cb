"""Spreads the work on one list over several workers; this module knows nothing of the work.

Threads are the default, because the work releases the interpreter lock and nothing has to be
copied. Any `concurrent.futures.Executor` (of processes, or of a cluster) can run the expensive part
instead; each thread here then only waits for one call at a time.

All threads belong to one pool of the process. GMP's Python binding keeps caches per thread that are
never freed, so a new pool for each call would leak memory in a process that runs for months.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from functools import cache
from typing import ParamSpec, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

_MOST_THREADS = 256  # in the pool, which starts one only if none is idle
_WORTH_A_THREAD = 16  # with fewer items per thread, starting it costs more than it saves


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
        workers: the number of concurrent calls; None means one per usable core.
        executor: runs the calls; None means this process. It is not shut down here.
    """

    def __init__(self, workers: int | None, executor: Executor | None = None) -> None:
        self.count = worker_count(workers)
        self._executor = executor

    @property
    def elsewhere(self) -> bool:
        """Whether an executor was given."""
        return self._executor is not None

    def call(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Return `work(*args)`, computed here or by the executor; its exceptions are raised
        here.
        """
        if self._executor is None:
            return work(*args, **kwargs)
        return self._executor.submit(work, *args, **kwargs).result()

    def spread(
        self, work: Callable[[Sequence[Item]], Result], items: Sequence[Item]
    ) -> list[Result]:
        """Run `work` in threads here, as the function `spread` does; `work` may use `call`."""
        return spread(work, items, self.count)


def spread(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], workers: int
) -> list[Result]:
    """Call `work` on contiguous parts of `items`, each in a thread, and return the results in
    order.

    The calling thread computes the first part. An exception is raised after all parts have ended.
    """
    parts = max(1, min(workers, len(items) // _WORTH_A_THREAD))
    size = -(-len(items) // parts) if items else 1
    slices = [items[at : at + size] for at in range(0, len(items), size)]
    if len(slices) < 2:
        return [work(part) for part in slices]
    others = [shared_pool().submit(work, part) for part in slices[1:]]
    try:
        first = work(slices[0])
    finally:
        wait(others)
    return [first, *(other.result() for other in others)]
