"""Computes the features of single rows at one party, with the hooks that its scheduler has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from heterofed.compute.features import FeatureBatch
from heterofed.compute.tensors import check_finite
from heterofed.errors import ConfigError, RequestError, RowCountError
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.hooks import CollaboratorHooks, loads_features

LOADS, ITERATES = "load_features", "iterate_predict_feature"


class OwnFeatures:
    """The features of one party's rows.

    Args:
        half: the half with the hooks and the model.
        load_timeout: the longest time in seconds that `load_features` may take. It then runs in a
            thread of its own, so that a lookup that hangs delays no other request. 0 sets no limit.
    """

    def __init__(self, half: Half[Any], load_timeout: float = 0.0) -> None:
        self._half, self._timeout = half, load_timeout
        self._thread = ThreadPoolExecutor(1, "heterofed-load") if load_timeout else None
        self._hanging: Future[Any] | None = None

    def of(self, ids: Sequence[str]) -> FeatureBatch | None:
        """Return the features of some rows; None at a Host that has none.

        Raises:
            RequestError: `load_features` takes too long.
            RowCountError: a hook returned another number of rows.
            FeatureError, NonFiniteError: the features cannot be used.
        """
        half = self._half
        if not loads_features(type(half.owner)):
            return _iterated(half, ids)
        if half.models.feature_model is None:
            return None
        load: Callable[[list[str]], Any] = half.owner.load_features
        if self._thread is not None:
            load = self._in_time
        return self.from_inputs(half.hooks.call_as(LOADS, load, list(ids)), len(ids), LOADS)

    def from_inputs(self, inputs: Any, rows: int, hook: str) -> FeatureBatch | None:
        """Return what the feature model makes of the inputs that a hook returned."""
        model = self._half.models.feature_model
        if model is None:
            return None
        return _checked(self._half, FeatureBatch.of(model(inputs), hook), rows, hook)

    def close(self) -> None:
        """Wait for no lookup any more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _in_time(self, ids: list[str]) -> Any:
        """Call the hook in its thread, and wait for it no longer than it may take."""
        if self._thread is None or (self._hanging is not None and not self._hanging.done()):
            raise _late()
        self._hanging = self._thread.submit(self._half.owner.load_features, ids)
        try:
            return self._hanging.result(self._timeout)
        except TimeoutError:
            if self._hanging.done():  # the error is the hook's own
                raise
            raise _late() from None


def _late() -> RequestError:
    return RequestError("load_features takes too long; ask again", code="late", retry_after=1)


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
