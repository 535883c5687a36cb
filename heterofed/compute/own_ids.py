"""Checks the ids of one party, and packs them."""

from __future__ import annotations

from collections.abc import Iterator

from heterofed.compute.alignment import check_ids
from heterofed.compute.packed_ids import PackedIds
from heterofed.compute.plain import a_list, as_string


def checked(ids: object, what: str = "load_local_ids") -> tuple[PackedIds, PackedIds]:
    """Return the ids that a hook returned, in their order and sorted.

    Ids that are read anew by each iteration are never in memory as strings all at once.

    Raises:
        IdError: see `check_ids`.
    """
    if isinstance(ids, Iterator):
        ids = list(ids)
    try:
        packed = PackedIds(map(as_string, a_list(ids, what)))
    except (AttributeError, TypeError, UnicodeEncodeError):
        packed = PackedIds()  # not all are strings that can travel
    ordered = PackedIds.in_order(packed)
    if not len(ordered) or not ordered.is_ascending:
        packed = PackedIds(check_ids(ids, what))  # which tells what is wrong
        ordered = PackedIds.in_order(packed)
    return packed, ordered
