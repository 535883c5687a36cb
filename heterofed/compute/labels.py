"""Labels of any form: how many there are, where that can be told. Knows no library of arrays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from numbers import Number
from typing import Any

MOST_PARTS = 64
"""Of a list of labels that are looked at for their sizes."""


def may_be_of(labels: Any, count: int, rows: int) -> bool:
    """Whether so many labels may be of so many rows: several of each, one for several as for pairs,
    or a list of rows.
    """
    whole = min(count, rows) > 0 and max(count, rows) % min(count, rows) == 0
    return whole or rows in sizes_in(labels)


def count_of(labels: Any) -> int | None:
    """As `count_of_plain`, also of several that are as many each."""
    parts = list(labels.values()) if isinstance(labels, Mapping) else labels
    if not isinstance(parts, list | tuple) or count_of_plain(labels) is not None:
        return count_of_plain(labels)
    counts = {count_of_plain(part) for part in parts}
    return counts.pop() if len(counts) == 1 else None


def count_of_plain(labels: Any) -> int | None:
    """How many labels there are, where they are plainly one after another: an array of [n] or
    [n, 1], or a list of numbers or strings. None for any other form, which need not tell its rows:
    concatenated targets beside their lengths, time-major ones, boxes of all images in one table.
    """
    shape = _shape_of(labels)
    if shape is not None:
        return shape[0] if len(shape) == 1 or shape[1:] == (1,) else None
    if isinstance(labels, list | tuple) and all(map(_is_scalar, labels)):
        return len(labels)
    return None


def sizes_in(labels: Any, depth: int = 0) -> Iterator[int]:
    """Numbers that may be the rows of labels: dimensions of arrays, lengths of lists."""
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
        with suppress(Exception):  # whatever it is
            yield len(labels)


def _shape_of(labels: Any) -> tuple[int, ...] | None:
    """Of an array of any library."""
    try:
        return tuple(int(size) for size in labels.shape)
    except Exception:  # there is none, or a nested tensor has no one shape
        return None


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | bytes | Number) or _shape_of(value) == ()
