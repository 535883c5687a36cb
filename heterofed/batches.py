"""What the batch hooks yield, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from heterofed.errors import FeatureError, IdError
from heterofed.plain import strings
from heterofed.tensors import Features, named


@dataclass(frozen=True, slots=True)
class Batch:
    """What `iterate_train_feature` and `iterate_test_feature` may yield.

    Attributes:
        features: tensor, tuple or dict of tensors, first dimension = rows; None at a label-only
            Host.
        labels: the Host's labels of the same rows, in any form that `train_a_batch` takes.
        ids: ids of the rows, as loaded from the data beside them (not copied from what the hook was
            given): proof that all parties' rows are in the same order.
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


def rows_of(batch: Batch, where: str) -> int:
    """Rows of a batch: of its features, else of its labels.

    Raises:
        FeatureError: they have no rows, or features and labels differ in them.
    """
    rows: int | None = None
    if batch.features is not None:
        rows = len(next(iter(named(batch.features, where)[1].values())))
    labels = _rows_of_labels(batch.labels)
    if rows is None and labels:
        rows = labels[0]
    elif labels and rows not in labels:
        raise FeatureError(f"{where} yielded {rows} rows of features and {labels[0]} labels")
    if rows is None:
        raise FeatureError(f"{where}: the labels of a label-only Host must have a length")
    return rows


def _rows_of_labels(labels: Any) -> list[int]:
    """How many rows labels may be of, the likeliest first; empty where they do not tell.

    Several kinds of labels come as a dict, tuple or list of arrays; a list may also be of rows.
    """
    if isinstance(labels, Tensor):
        return [len(labels)] if labels.dim() else []
    if getattr(labels, "ndim", None) == 0 or not hasattr(labels, "__len__"):
        return []
    parts = list(labels.values()) if isinstance(labels, Mapping) else labels
    if not isinstance(parts, list | tuple):
        return [len(parts)]
    counts = [len(parts)] if not isinstance(labels, Mapping) else []
    if parts and all(getattr(each, "ndim", 0) for each in parts):
        counts = [len(parts[0]), *counts]
    return counts
