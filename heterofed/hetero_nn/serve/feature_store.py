"""Keeps the features of the rows of a table for a limited time, and finds those that are missing.

With a defence, a row's noise is drawn when its features are computed. As long as they are kept, a
repeated request gets the same bytes and reveals nothing more. This module uses no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heterofed.compute.features import FeatureBatch
from heterofed.compute.tensors import Layout
from heterofed.errors import FeatureError

Rows = np.ndarray[Any, np.dtype[np.int64]]


class FeatureStore:
    """The features of a table's rows, by row number.

    Args:
        rows: the number of rows of the table.
        age: the longest time in seconds for which features are kept; 0 keeps them for one request,
            and takes no memory for others.
    """

    def __init__(self, rows: int, age: float) -> None:
        self._rows, self._age = rows, age
        self._held = np.zeros(rows, dtype=bool)
        self._ends = -np.inf
        self._layout: Layout = "tensor"
        self._tensors: dict[str, Tensor] = {}
        self._only: Rows | None = None

    def begin_request(self, now: float) -> bool:
        """Drop all features if their time is over; return whether a new period begins."""
        if now < self._ends:
            return False
        self._held[:] = False
        self._ends = now + self._age
        return True

    def missing(self, rows: Rows) -> Rows:
        """Return those of some rows whose features are not held, each once, in ascending order."""
        return np.unique(rows[~self._held[rows]])

    def put(self, rows: Rows, batch: FeatureBatch) -> None:
        """Keep the features of some rows, which are in ascending order.

        Raises:
            FeatureError: the features have another form than those of other rows.
        """
        if not self._age:
            self._only, self._layout, self._tensors = rows, batch.layout, dict(batch.tensors)
            self._held[rows] = True
            return
        if not self._tensors:
            self._layout = batch.layout
            self._tensors = {
                name: each.new_empty((self._rows, *each.shape[1:]))
                for name, each in batch.tensors.items()
            }
        if batch.layout != self._layout or forms(batch.tensors) != forms(self._tensors):
            raise FeatureError(
                "the features of single rows differ in their form, and those of other requests"
                " cannot be padded to them; yield the same names, dtypes and shapes for each row"
            )
        index = torch.from_numpy(rows)
        for name, tensor in batch.tensors.items():
            self._tensors[name][index] = tensor
        self._held[rows] = True

    def take(self, rows: Rows) -> FeatureBatch:
        """Return the features of some rows that are held, in their order."""
        places = rows if self._only is None else np.searchsorted(self._only, rows)
        index = torch.from_numpy(places)
        found = {name: each.index_select(0, index) for name, each in self._tensors.items()}
        return FeatureBatch(self._layout, found)


def forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """Return the dtype of each tensor, and its shape without the rows."""
    return {name: (each.dtype, each.shape[1:]) for name, each in tensors.items()}
