"""Ids on their way into an intersection, and what is said of what came out of it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import psi
from heterofed.compute.plain import a_list, as_string
from heterofed.errors import CheckpointError, IdError, PSIFailedError
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")

_FULL = (errno.ENOSPC, errno.EDQUOT)

TINY = 0.1
"""Of the smallest set: where fewer ids are in common, something is probably wrong with them."""


def own_ids(ids: object, what: str = "load_local_ids") -> psi.OwnIds:
    """Check what `load_local_ids` returned; any iterable will do, and need not fit into memory.

    Args:
        ids: list-like, or a generator.
        what: names the ids in errors.

    Raises:
        IdError: not an iterable of unique strings without lone surrogates, or empty. The message
            gives counts and positions, never an id.
    """
    try:
        own = ids if isinstance(ids, psi.OwnIds) else psi.OwnIds(map(as_string, a_list(ids, what)))
    except psi.IdsError as error:
        raise IdError(
            f"{what}: {error}; ids must be unique strings, made alike at every party"
        ) from None
    if not len(own):
        raise IdError(f"{what} gave no id; there is nothing to intersect")
    return own


def tell(run: Run, common: int, own: int, smallest: int, *, expected: bool = False) -> None:
    """Say how many ids are in common, and what may be wrong where they are few; a further key is
    of the rows that are left, which may be few.
    """
    which = f" by key {run.id_key + 1}" if run.plan.id_keys > 1 else ""
    share = _percent(common, own)
    logger.info("psi: %d ids in common%s, of %d here (%s %%)", common, which, own, share)
    if not run.id_key:
        run.result.smallest_ids = smallest
    if common < TINY * smallest and not expected and not which:
        logger.warning(
            "psi: few ids are in common: %s %% of the smallest set's. Compare how the parties write"
            " them (leading zeros, spaces, case, numbers with a decimal point, another hash or"
            " salt), and whether they mean the same people and the same time",
            _percent(common, smallest),
        )


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.0f}" if share >= 1 or not part else f"{share:.2g}"


@contextmanager
def files_named() -> Iterator[None]:
    """Say which file cannot be written or read; what was kept goes on once it can."""
    try:
        yield
    except OSError as error:
        remedy = "make room there" if error.errno in _FULL else "correct that"
        raise CheckpointError(
            f"the intersection cannot go on: {error.filename or 'a file of it'}:"
            f" {error.strerror or error}; {remedy} and start all parties again: they go on"
        ) from error


def check_count(run: Run, count: int) -> None:
    """PSIFailedError where this party has more ids than the plan allows."""
    plan = run.plan
    if count > plan.max_peer_ids:
        raise PSIFailedError(
            f"{run.party.name} has {count} ids and the plan of {plan.host} allows"
            f" {plan.max_peer_ids}; raise max_peer_ids there, or in the task file",
            party=plan.host,
        )
