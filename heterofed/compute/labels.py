"""Determines the number of labels of any form if possible, without importing array libraries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from numbers import Number
from typing import Any

MOST_PARTS = 64
"""The number of elements of a list of labels whose sizes are examined."""


def may_be_of(labels: Any, count: int, rows: int) -> bool:
    """Return whether labels can belong to a number of rows.

    A row may have several labels, several rows may share one (as pairs do), and labels may be lists
    of rows.
    """
    whole = min(count, rows) > 0 and max(count, rows) % min(count, rows) == 0
    return whole or rows in sizes_in(labels)


def count_of(labels: Any) -> int | None:
    """Return the result of `count_of_plain`, or the common count of several labels of equal
    length.
    """
    parts = list(labels.values()) if isinstance(labels, Mapping) else labels
    if not isinstance(parts, list | tuple) or count_of_plain(labels) is not None:
        return count_of_plain(labels)
    counts = {count_of_plain(part) for part in parts}
    return counts.pop() if len(counts) == 1 else None


def count_of_plain(labels: Any) -> int | None:
    """Return the number of labels of a plain form: an array [n] or [n, 1], or a list of scalars.

    It is None for any other form, whose length need not be the number of rows. Examples are
    concatenated targets with their lengths, time-major targets, and the boxes of all images in one
    table.
    """
    shape = _shape_of(labels)
    if shape is not None:
        return shape[0] if len(shape) == 1 or shape[1:] == (1,) else None
    if isinstance(labels, list | tuple) and all(map(_is_scalar, labels)):
        return len(labels)
    return None


def sizes_in(labels: Any, depth: int = 0) -> Iterator[int]:
    """Yield the numbers that can be the number of rows: dimensions of arrays and lengths of
    lists.
    """
    shape = _shape_of(labels)
    if shape is not None:
        yield from shape
    elif isinstance(labels, Mapping | list | tuple) and depth < 4:
        parts = list(labels.values()) if isinstance(labels, Mapping) else labels
        for part in itertools.islice(parts, MOST_PARTS):
            yield from sizes_in(part, depth + 1)
        if not isinstance(labels, Mapping):
            yield len(labels)
    elif hasattr(labels, "__len__") and not isinstance(labels, str | bytes):
        with suppress(Exception):  # an object of any library may raise anything
            yield len(labels)


def _shape_of(labels: Any) -> tuple[int, ...] | None:
    """Return the shape of an array of any library, or None."""
    try:
        return tuple(int(size) for size in labels.shape)
    except Exception:  # there is no shape, or a nested tensor has several
        return None


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | bytes | Number) or _shape_of(value) == ()
