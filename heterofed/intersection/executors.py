"""Opens the executor that computes this party's part of an intersection, for its length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psi
from heterofed.errors import PSIFailedError
from heterofed.runs.run import Run
from psi.executors import Pool, open_pool


@contextmanager
def opened_executor(run: Run) -> Iterator[Pool | None]:
    """Return the executor that this party has chosen, or None if it computes in this process.

    Raises:
        PSIFailedError: the executor does not answer, or its library is missing; the message names
            its address and the remedy.
    """
    choice = run.psi_executor
    try:
        pool = open_pool(choice.executor)
    except psi.ExecutorError as error:
        name = run.party.name
        raise PSIFailedError(
            f"the executor of {name} cannot be used: {error}; or leave psi_executor out", party=name
        ) from error
    try:
        yield pool
    finally:
        if pool is not None and isinstance(choice.executor, str):
            pool.close()
