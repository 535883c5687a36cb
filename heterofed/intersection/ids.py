"""Checks the ids for an intersection, and logs its result."""

from __future__ import annotations

import errno
import logging
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import psi
from heterofed.compute.packed_ids import PackedIds
from heterofed.compute.plain import a_list, as_string
from heterofed.errors import CheckpointError, IdError, PSIFailedError
from heterofed.runs.run import Run
from heterofed.runs.term_limits import too_much

logger = logging.getLogger("heterofed")

_FULL = (errno.ENOSPC, errno.EDQUOT)

_AT_ONCE = 65_536
"""The number of ids that are picked at a time."""

TINY = 0.1
"""The share of the smallest set below which the ids of the parties probably do not fit together."""


def own_ids(ids: object, what: str = "load_local_ids") -> psi.OwnIds:
    """Check the ids that `load_local_ids` returned, which need not fit into memory.

    Args:
        ids: a list-like object or a generator.
        what: the name of the ids for errors.

    Raises:
        IdError: the ids are not an iterable of unique strings without lone surrogates, or there are
            none. The message gives counts and positions, and never an id.
    """
    try:
        own = ids if isinstance(ids, psi.OwnIds) else psi.OwnIds(map(as_string, a_list(ids, what)))
    except psi.IdsError as error:
        raise IdError(
            f"{what}: {error}; make unique strings of them, in the same way at every party"
        ) from None
    if not len(own):
        raise IdError(f"{what} gave no id, so nothing can be intersected; give one at least")
    return own


def picked(own: psi.OwnIds, positions: array[int]) -> PackedIds:
    """Return the ids at some positions; only some of them are strings at any time."""
    parts = (positions[at : at + _AT_ONCE] for at in range(0, len(positions), _AT_ONCE))
    return PackedIds(each for part in parts for each in own.pick(part))


def tell(run: Run, common: int, own: int, smallest: int, *, expected: bool = False) -> None:
    """Log how many ids are in common, and the possible reasons if they are few.

    A further id key is for the rows that are left, which may be few.
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
    """Turn an error of the disk into a `CheckpointError` that names the file."""
    try:
        yield
    except OSError as error:
        remedy = "make room there" if error.errno in _FULL else "correct that"
        raise CheckpointError(
            f"the intersection cannot go on: {error.filename or 'a file of it'}:"
            f" {error.strerror or error}; {remedy} and start all parties again: they go on"
        ) from error


def check_count(run: Run, count: int) -> None:
    """Check that this party has no more ids than the plan and its limits allow.

    Raises:
        LeakLimitError, PSIFailedError: it has more.
    """
    plan = run.plan
    too_much(run, f"the number of ids of {run.party.name}", "ids", count)
    if count > plan.max_peer_ids:
        raise PSIFailedError(
            f"{run.party.name} has {count} ids and the plan of {plan.host} allows"
            f" {plan.max_peer_ids}; raise max_peer_ids there, or in the task file",
            party=plan.host,
        )
