"""What the batch hooks yield, read and checked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Number
from typing import Any

from heterofed.errors import FeatureError
from heterofed.tensors import Features, named

MOST_PARTS = 64
"""Of a list of labels that are looked at for their sizes."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What `iterate_train_feature` and `iterate_test_feature` may yield.

    Attributes:
        features: tensor, tuple or dict of tensors, first dimension = rows; None at a label-only
            Host.
        labels: the Host's labels of the same rows, in any form that `train_a_batch` takes.
        ids: ids of the rows, as loaded from the data beside them (not copied from what the hook was
            given): proof that all parties' rows are in the same order. At a label-only Host they
            also say how many rows there are, where the form of the labels does not.
    """

    features: Features | None
    labels: Any = None
    ids: Sequence[str] | None = None


def as_batch(item: object, where: str, *, with_labels: bool | None) -> Batch:
    """Read what a feature hook yielded.

    Args:
        item: what it yielded.
        where: names it.
        with_labels: whether there must be labels; None: there may be, and features need not.

    Raises:
        FeatureError: it is not of the form that the hook's contract gives.
    """
    if isinstance(item, Batch):
        batch = item
    elif with_labels is not False:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise FeatureError(
                f"{where} must yield (features, labels) or Batch(features, labels), not a"
                f" {type(item).__name__}"
            )
        batch = Batch(item[0], item[1])
    else:
        batch = Batch(item)  # type: ignore[arg-type]
    if with_labels and batch.labels is None:
        raise FeatureError(f"{where} yielded no labels; the Host must yield them")
    if with_labels is False and batch.features is None:
        raise FeatureError(f"{where} yielded no features: yield what feature_model returns")
    return batch


def rows_of(batch: Batch, where: str, others: int | None = None) -> int:
    """Rows of a batch: of its features, else of its ids, else of its labels.

    Args:
        batch: what a hook yielded.
        where: names the hook.
        others: rows of another party's batch; they count where labels alone may be of as many.

    Raises:
        FeatureError: nothing tells the rows, or the labels cannot be those of the features.
    """
    if batch.features is not None:
        rows = len(next(iter(named(batch.features, where)[1].values())))
        count = _count_of(batch.labels)
        if count not in (None, rows) and not _may_be_of(batch.labels, count or 0, rows):
            raise FeatureError(f"{where} yielded {rows} rows of features and {count} labels")
        return rows
    if batch.ids is not None and hasattr(batch.ids, "__len__"):
        return len(batch.ids)
    sizes = list(_sizes_in(batch.labels))
    if others is not None and (not sizes or others in sizes):
        return others
    if not sizes:
        raise FeatureError(f"{where}: the labels of a label-only Host must have a length, or ids")
    return sizes[0]


def _may_be_of(labels: Any, count: int, rows: int) -> bool:
    """Whether so many labels may be of so many rows: several of each, one for several as for pairs,
    or a list of rows.
    """
    whole = min(count, rows) > 0 and max(count, rows) % min(count, rows) == 0
    return whole or rows in _sizes_in(labels)


def _count_of(labels: Any) -> int | None:
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


def _sizes_in(labels: Any, depth: int = 0) -> Iterator[int]:
    """Numbers that may be the rows of labels: dimensions of arrays, lengths of lists."""
    shape = _shape_of(labels)
    if shape is not None:
        yield from shape
    elif isinstance(labels, Mapping | list | tuple) and depth < 4:
        parts = list(labels.values()) if isinstance(labels, Mapping) else labels
        for part in itertools.islice(parts, MOST_PARTS):
            yield from _sizes_in(part, depth + 1)
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
