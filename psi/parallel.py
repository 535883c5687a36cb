"""One list, several threads. Knows nothing of what it runs.

Threads are enough because the work inside releases the interpreter lock. Processes would need
to import `__main__` again, which breaks scripts without a main guard.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_WORTH_A_THREAD = 16  # below this many items per thread, starting it costs more than it saves


def usable_cores() -> int:
    """The cores this process may run on, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count(workers: int | None) -> int:
    """The number of threads to use; None asks for one per usable core."""
    if workers is None:
        return usable_cores()
    if workers < 1:
        raise ValueError("workers must be at least 1")
    return workers


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
    with ThreadPoolExecutor(len(slices) - 1, thread_name_prefix="psi") as pool:
        others = [pool.submit(work, part) for part in slices[1:]]
        return [work(slices[0]), *(other.result() for other in others)]
