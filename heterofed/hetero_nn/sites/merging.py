"""Merges the features of a role's sites into one batch, in the order of the Host's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heterofed.compute.features import FeatureBatch
from heterofed.errors import FeatureError


@dataclass(frozen=True, slots=True)
class Part:
    """The features of one batch that one site sent.

    Attributes:
        party: the feature key of the site.
        rows: the rows of the batch that the site has, int64 [its rows].
        features: their features; without tensors if it has no rows.
    """

    party: str
    rows: Tensor
    features: FeatureBatch


def merged(parts: Sequence[Part], rows: int) -> FeatureBatch:
    """Return the features of all rows of a batch.

    Args:
        parts: the parts of the sites, which have each row once.
        rows: the number of rows of the batch.

    Raises:
        FeatureError: the sites' features differ in more than the number of rows. The error names
            the second of the two sites that it compares.
    """
    first, *others = [each for each in parts if each.features.tensors]
    for each in others:
        if _form(each.features) != _form(first.features):
            raise FeatureError(
                f"{each.party} sent features of the form {_form(each.features)}, and {first.party}"
                f" of {_form(first.features)}: the sites of a role have one feature model, so"
                " return the same one from make_feature_model at all of them",
                party=each.party,
            )
    tensors = {}
    for name, like in first.features.tensors.items():
        tensors[name] = like.new_empty((rows, *like.shape[1:]))
        for each in (first, *others):
            tensors[name][each.rows.to(like.device)] = each.features.tensors[name]
    return FeatureBatch(first.features.layout, tensors)


def gathered(parts: Sequence[Part], rows: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return the features of those rows that any site has, in order, and which rows these are.

    Args:
        parts: the parts of the sites that have rows, which have each row at most once.
        rows: the number of rows of the batch.

    Returns:
        The tensors by name, without any if no site has rows, and bools of shape [rows].

    Raises:
        FeatureError: the sites' features differ in form.
    """
    here = torch.zeros(rows, dtype=torch.bool)
    for each in parts:
        here[each.rows] = True
    if len(parts) < 2:
        return dict(parts[0].features.tensors) if parts else {}, here
    whole = merged(parts, rows).tensors
    return {name: each[here.to(each.device)] for name, each in whole.items()}, here


def rows_of_each(tensors: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Return some rows of each tensor; nothing if there are no rows."""
    if not len(rows):
        return {}
    return {name: each[rows.to(each.device)] for name, each in tensors.items()}


def rows_of_labels(labels: Any, rows: Tensor | None) -> Any:
    """Return the labels of some rows if labels are a tensor, else all labels."""
    if rows is None or not isinstance(labels, Tensor):
        return labels
    return labels[rows.to(labels.device)]


def _form(features: FeatureBatch) -> list[tuple[str, str, list[int]]]:
    return [
        (name, str(each.dtype).removeprefix("torch."), list(each.shape[1:]))
        for name, each in features.tensors.items()
    ]
