"""Reads and checks the batches that the hooks yield."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from heterofed.compute.labels import count_of, may_be_of, sizes_in
from heterofed.compute.plain import Strings, are_plain, strings
from heterofed.compute.tensors import Features, named
from heterofed.errors import FeatureError, IdError


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch, which `iterate_train_feature` and `iterate_test_feature` may yield.

    Attributes:
        features: a tensor, or a tuple or dict of tensors, whose first dimension is the rows; None
            at a label-only Host.
        labels: the Host's labels of the same rows, in any form that `train_a_batch` takes.
        ids: the ids of the rows, which must be loaded with the data and not copied from the
            argument of the hook. They prove that the rows of all parties are in the same order. At
            a label-only Host they also give the number of rows if the form of the labels does not.
    """

    features: Features | None
    labels: Any = None
    ids: Sequence[str] | None = None


def as_batch(item: object, where: str, *, with_labels: bool | None) -> Batch:
    """Read one item that a feature hook yielded.

    Args:
        item: the item.
        where: the name of the hook for errors.
        with_labels: whether labels are required; with None, labels are allowed and features are
            optional.

    Raises:
        FeatureError: the item does not have the form that the hook's contract requires.
    """
    if isinstance(item, Batch):
        batch = item
    elif with_labels is not False:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise FeatureError(
                f"{where} must yield (features, labels) or Batch(features, labels, ids), not a"
                f" {type(item).__name__}"
                + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
                + "; yield one of the two forms"
            )
        batch = Batch(item[0], item[1])
    else:
        batch = Batch(item)  # type: ignore[arg-type]
    if batch.ids is not None:
        batch = Batch(batch.features, batch.labels, _ids(batch.ids, where))
    if with_labels and batch.labels is None:
        raise FeatureError(f"{where} yielded no labels; yield (features, labels) at the Host")
    if with_labels is False and batch.features is None:
        raise FeatureError(f"{where} yielded no features: yield what feature_model returns")
    return batch


def _ids(ids: object, where: str) -> Strings:
    """Return the ids of a batch as a list.

    Raises:
        FeatureError: the ids are not a list of strings.
    """
    if type(ids) is list and are_plain(ids):
        return Strings(ids)
    try:
        return Strings(strings(ids, f"the ids of {where}"))
    except IdError as error:
        raise FeatureError(str(error)) from None


def rows_of(batch: Batch, where: str, others: int | None = None) -> int:
    """Return the number of rows of a batch, by its features, else by its ids, else by its labels.

    Args:
        batch: the batch that a hook yielded.
        where: the name of the hook for errors.
        others: the number of rows of another party's batch; it is taken if only labels are given
            and they can belong to that many rows.

    Raises:
        FeatureError: the number of rows cannot be determined, or the labels do not match the
            features.
    """
    if batch.features is not None:
        rows = len(next(iter(named(batch.features, where)[1].values())))
        count = count_of(batch.labels)
        if count not in (None, rows) and not may_be_of(batch.labels, count or 0, rows):
            raise FeatureError(
                f"{where} yielded {rows} rows of features and {count} labels; yield one label per"
                " row"
            )
        return rows
    if batch.ids is not None and hasattr(batch.ids, "__len__"):
        return len(batch.ids)
    sizes = list(sizes_in(batch.labels))
    if others is not None and (not sizes or others in sizes):
        return others
    if not sizes:
        raise FeatureError(
            f"{where} yielded labels without a length, so their rows cannot be counted; yield a"
            " tensor of labels, or give ids beside them"
        )
    return sizes[0]


def copied_batch(batch: Batch) -> Batch:
    """Return a copy of the batch, because the next batch may reuse the memory."""
    return replace(batch, features=copied(batch.features), labels=copied(batch.labels))


def copied(value: Any) -> Any:
    """Return a copy of all tensors and arrays of a value, also within dicts, lists and tuples.

    Args:
        value: features or labels of any form; objects of other classes are not copied.
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
