"""Computes the features of single rows at one party, with the hooks that its scheduler has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from heterofed.compute.features import FeatureBatch
from heterofed.compute.tensors import check_finite
from heterofed.errors import ConfigError, RowCountError
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.hooks import CollaboratorHooks, loads_features

LOADS, ITERATES = "load_features", "iterate_predict_feature"


def own_features(half: Half[Any], ids: Sequence[str]) -> FeatureBatch | None:
    """Return the features of some rows; None at a Host that has none.

    Raises:
        RowCountError: a hook returned another number of rows.
        FeatureError, NonFiniteError: the features cannot be used.
    """
    if not loads_features(type(half.owner)):
        return _iterated(half, ids)
    if half.models.feature_model is None:
        return None
    return from_inputs(half, half.hooks.call(LOADS, list(ids)), len(ids), LOADS)


def from_inputs(half: Half[Any], inputs: Any, rows: int, hook: str) -> FeatureBatch | None:
    """Return what the feature model makes of the inputs that a hook returned."""
    model = half.models.feature_model
    if model is None:
        return None
    return _checked(half, FeatureBatch.of(model(inputs), hook), rows, hook)


def _iterated(half: Half[Any], ids: Sequence[str]) -> FeatureBatch | None:
    labels = False if isinstance(half.owner, CollaboratorHooks) else None  # None allows both forms
    batches = half.batches.of(ITERATES, ids, grad=False, with_labels=labels)
    given = [each.features for each in batches]
    if all(each is None for each in given):
        return None
    if any(each is None for each in given):
        raise ConfigError(f"{ITERATES} yields features in some batches only; yield them in all")
    parts = [FeatureBatch.of(each, ITERATES) for each in given]
    names = parts[0].tensors
    tensors = {name: torch.cat([each.tensors[name] for each in parts]) for name in names}
    return _checked(half, FeatureBatch(parts[0].layout, tensors), len(ids), ITERATES)


def _checked(half: Half[Any], batch: FeatureBatch, rows: int, hook: str) -> FeatureBatch:
    if batch.rows != rows:
        raise RowCountError(
            f"{hook} gave {batch.rows} rows for {rows} ids; give one row per id",
            numbers=(batch.rows, rows),
        )
    check_finite(batch.tensors, f"what {hook} gave", half.settings.feature_key)
    return batch
