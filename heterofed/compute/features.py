"""One batch of features: named tensors, and how a hook arranged them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from heterofed.compute.tensors import Layout, named, restore


@dataclass(slots=True)
class FeatureBatch:
    """Features of the same rows.

    Attributes:
        layout: how the hook arranged the tensors.
        tensors: by name, each [rows, ...].
        ids: the ids of the rows, where the hook gave them.
        given: what the hook yielded, or what stands for it; None where that is of no use.
    """

    layout: Layout
    tensors: dict[str, Tensor]
    ids: Sequence[str] | None = None
    given: Any = None

    @classmethod
    def of(cls, features: Any, where: str, ids: Sequence[str] | None = None) -> FeatureBatch:
        """What a hook yielded.

        Args:
            features: a tensor, tuple or dict of tensors.
            where: names the hook in errors.
            ids: the ids of the rows.

        Raises:
            FeatureError: see `heterofed.compute.tensors.named`.
        """
        layout, tensors = named(features, where)
        return cls(layout, tensors, ids, features)

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(next(iter(self.tensors.values())))

    @property
    def floats(self) -> dict[str, Tensor]:
        """The tensors of floating-point numbers, by name."""
        return {name: each for name, each in self.tensors.items() if each.is_floating_point()}

    def arranged(self) -> Any:
        """The tensors as the hook arranged them."""
        return restore(self.layout, self.tensors)

    def holding(self, tensors: Mapping[str, Tensor]) -> FeatureBatch:
        """The same rows with other tensors of the same names."""
        return FeatureBatch(self.layout, dict(tensors), self.ids, restore(self.layout, tensors))
