"""Rows matched by several keys, one intersection after another; it knows ids, and no message.

A key is one way to tell people apart, such as a phone number, and the next one an e-mail address.
An intersection by a further key is of those rows alone that no key before has matched. So no row is
matched twice, and all parties agree on the pairs without a further word: a row is the id by which
it was matched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from heterofed.compute.alignment import SortedIdSet
from heterofed.compute.packed_ids import PackedIds
from heterofed.errors import IdError
from heterofed.runs.run import Run

Further: TypeAlias = Callable[[SortedIdSet, int], Iterable[str]]
"""Gives the ids by a further key (its number, from 1) of rows that are not among the common ones so
far.
"""


def by_keys(
    run: Run,
    first: Iterable[str],
    further: Further | None,
    intersect: Callable[[Iterable[str]], PackedIds],
) -> PackedIds:
    """Intersect by each key of the plan; gives the common ids of all of them.

    Args:
        run: this run.
        first: own ids by the first key.
        further: gives those by further keys.
        intersect: one intersection.

    Raises:
        IdError: there are no ids by a key that the plan has, or a common one is given again.
    """
    run.id_key = 0
    common = intersect(first)
    for key in range(1, run.plan.id_keys):
        ids = further_ids(run, further, common, key)
        run.id_key = key
        common = common + intersect(ids)
    run.id_key = 0
    return common


def further_ids(run: Run, further: Further | None, common: Iterable[str], key: int) -> list[str]:
    """Own ids by a further key, checked; see `by_keys`."""
    if further is None:
        raise IdError(
            f"the plan of {run.plan.host} matches ids by more keys than this party has; define"
            " load_further_ids here, or set a smaller id_keys there"
        )
    known = SortedIdSet(common)
    ids = list(further(known, key))
    if again := len(known.intersection(ids)):
        raise IdError(
            f"load_further_ids gave {again} ids that an earlier key has matched; leave those rows"
            " out, and mark ids by their key"
        )
    return ids or [nobody(run.party.name)]


def nobody(party: str) -> str:
    """An id that no other party has: stands for all rows where a party has none left to match."""
    return f"\x1d{party}"
