"""What the batch hooks yield, read and checked."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from heterofed.compute.labels import count_of, may_be_of, sizes_in
from heterofed.compute.plain import strings
from heterofed.compute.tensors import Features, named
from heterofed.errors import FeatureError, IdError


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
                f"{where} must yield (features, labels) or Batch(features, labels, ids), not a"
                f" {type(item).__name__}"
                + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
            )
        batch = Batch(item[0], item[1])
    else:
        batch = Batch(item)  # type: ignore[arg-type]
    if batch.ids is not None:
        batch = replace(batch, ids=_ids(batch.ids, where))
    if with_labels and batch.labels is None:
        raise FeatureError(f"{where} yielded no labels; the Host must yield them")
    if with_labels is False and batch.features is None:
        raise FeatureError(f"{where} yielded no features: yield what feature_model returns")
    return batch


def _ids(ids: object, where: str) -> list[str]:
    """The ids beside a batch, as a list.

    Raises:
        FeatureError: they are no list of strings.
    """
    try:
        return strings(ids, f"the ids of {where}")
    except IdError as error:
        raise FeatureError(str(error)) from None


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
        count = count_of(batch.labels)
        if count not in (None, rows) and not may_be_of(batch.labels, count or 0, rows):
            raise FeatureError(f"{where} yielded {rows} rows of features and {count} labels")
        return rows
    if batch.ids is not None and hasattr(batch.ids, "__len__"):
        return len(batch.ids)
    sizes = list(sizes_in(batch.labels))
    if others is not None and (not sizes or others in sizes):
        return others
    if not sizes:
        raise FeatureError(f"{where}: the labels of a label-only Host must have a length, or ids")
    return sizes[0]


def copied_batch(batch: Batch) -> Batch:
    """The same with memory of its own, for when the next batch may use the same again."""
    return replace(batch, features=copied(batch.features), labels=copied(batch.labels))


def copied(value: Any) -> Any:
    """The same with tensors and arrays of its own, in dicts, lists and tuples too.

    Args:
        value: features or labels of any form; objects of other classes stay as they are.
    """
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, MutableMapping):
        other = copy.copy(value)
        for key, each in value.items():
            other[key] = copied(each)
        return other
    if isinstance(value, tuple) and hasattr(value, "_make"):  # a named tuple
        return value._make(map(copied, value))
    if type(value) in (list, tuple):
        return type(value)(map(copied, value))
    return value
