"""Defines a batch of features: named tensors, and how a hook arranged them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from heterofed.compute.tensors import Layout, named, restore


@dataclass(slots=True)
class FeatureBatch:
    """The features of the rows of one batch.

    Attributes:
        layout: how the hook arranged the tensors.
        tensors: the tensors by name, each of shape [rows, ...].
        ids: the ids of the rows, if the hook gave them.
        given: the features as the hook yielded them, or a replacement; None if they are not needed.
    """

    layout: Layout
    tensors: dict[str, Tensor]
    ids: Sequence[str] | None = None
    given: Any = None

    @classmethod
    def of(cls, features: Any, where: str, ids: Sequence[str] | None = None) -> FeatureBatch:
        """Return the batch of the features that a hook yielded.

        Args:
            features: a tensor, or a tuple or dict of tensors.
            where: the name of the hook for errors.
            ids: the ids of the rows.

        Raises:
            FeatureError: the features are invalid; see `heterofed.compute.tensors.named`.
        """
        layout, tensors = named(features, where)
        return cls(layout, tensors, ids, features)

    @property
    def rows(self) -> int:
        """The number of rows of the batch; 0 without tensors."""
        for tensor in self.tensors.values():
            return tensor.shape[0]  # `len` of a tensor is a function of Python
        return 0

    @property
    def floats(self) -> dict[str, Tensor]:
        """Return the floating-point tensors by name."""
        return {name: each for name, each in self.tensors.items() if each.is_floating_point()}

    def arranged(self) -> Any:
        """Return the tensors as the hook arranged them."""
        return restore(self.layout, self.tensors)

    def holding(self, tensors: Mapping[str, Tensor]) -> FeatureBatch:
        """Return the same rows with other tensors of the same names."""
        return FeatureBatch(self.layout, dict(tensors), self.ids, restore(self.layout, tensors))
