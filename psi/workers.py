"""One list, several workers. Knows nothing of what it runs.

Threads are the default: the work inside releases the interpreter lock, and nothing has to be
copied. Any `concurrent.futures.Executor` may do the heavy part instead (processes, a cluster);
then each thread here only waits for one call at a time.

The threads are those of one pool for the whole process. GMP's Python binding keeps caches for each
thread that are never freed, so a pool for each call would grow a process that lives for months.
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

_MOST_THREADS = 256  # of the pool, which makes one only where none is idle
_WORTH_A_THREAD = 16  # below this many items per thread, starting it costs more than it saves


def usable_cores() -> int:
    """The cores this process may run on, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count(workers: int | None) -> int:
    """The number of workers to use; None asks for one per usable core."""
    if workers is None:
        return usable_cores()
    if workers < 1:
        raise ValueError("workers must be at least 1")
    return workers


@cache
def shared_pool() -> ThreadPoolExecutor:
    """The threads of this process that compute for all its runs.

    What runs there must not wait for what is queued there: all threads might wait.
    """
    return ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="psi")


if hasattr(os, "register_at_fork"):  # a child process has the pool, but not its threads
    os.register_at_fork(after_in_child=shared_pool.cache_clear)


class Workers:
    """So many calls at once, in threads of this process or through an executor.

    Args:
        workers: calls at once; None for one per usable core.
        executor: what runs them; None for this process. It is not shut down here.
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
        """`work(*args)`, there where the work is done; exceptions come out here."""
        if self._executor is None:
            return work(*args, **kwargs)
        return self._executor.submit(work, *args, **kwargs).result()

    def spread(
        self, work: Callable[[Sequence[Item]], Result], items: Sequence[Item]
    ) -> list[Result]:
        """See `spread`: `work` runs in threads here, and may use `call`."""
        return spread(work, items, self.count)


def spread(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], workers: int
) -> list[Result]:
    """Call `work` on contiguous parts of `items`, one thread each; results in order of the parts.

    The calling thread does the first part itself. The first exception comes out after all ended.
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
