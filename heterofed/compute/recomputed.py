"""Gives activation checkpointing the weights of its own forward pass in runs with staleness.

A checkpointed module saves its inputs instead of its activations, and repeats its forward pass
within the backward pass. With staleness, steps come in between. So the weights that steps change
are copied when a batch goes under way, and a forward pass that is repeated sees these copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from heterofed.errors import ConfigError

Versions = tuple[int, ...]
"""The number of changes in place of each weight, which tells sets of weights apart."""


class HasFeatureModel(Protocol):
    """Knows the feature model of a party."""

    @property
    def feature_model(self) -> nn.Module | None:
        """The model."""

    def feature_weights(self) -> Iterable[Tensor]:
        """Return the tensors that a step changes."""


class Recomputed:
    """The weights of the forward passes that are under way.

    Nothing is copied until a forward pass was repeated within a backward pass.

    Args:
        models: knows the model and the weights that steps change.
    """

    def __init__(self, models: HasFeatureModel) -> None:
        self._models, self._repeats = models, False
        self._weights: list[Tensor] = []
        self._copies: dict[Versions, list[Tensor]] = {}

    def note(self) -> Versions:
        """Return the mark of the current weights, with which a forward pass was made just now."""
        if not self._weights:
            self._weights = list(dict.fromkeys(self._models.feature_weights()))
        mark = self._mark()
        if self._repeats:
            self._copy(mark)
        return mark

    def forget(self) -> None:
        """Forget the weights and their copies, because no batch is under way."""
        self._weights.clear()
        self._copies.clear()

    @contextmanager
    def at(self, mark: Versions) -> Iterator[None]:
        """Let forward passes that a backward pass repeats in this block see the weights of a mark.

        Raises:
            ConfigError: a module repeats its forward pass, and these weights are gone or cannot be
                given to it.
        """
        depth, now = 0, list[Tensor]()

        def before(module: nn.Module, _given: Any) -> None:
            nonlocal depth, now
            if not _in_backward() or not self._is_part(module):
                return
            if not depth:
                now = self._swap(self._of(mark))
            depth += 1

        def after(module: nn.Module, *_: Any) -> None:
            nonlocal depth
            if not depth or not self._is_part(module):
                return
            depth -= 1
            if not depth:
                self._swap(now)

        hooks = (
            register_module_forward_pre_hook(before),
            register_module_forward_hook(after, always_call=True),
        )
        try:
            yield
        finally:
            for each in hooks:
                each.remove()
            for older in list(self._copies):
                if older == mark:
                    break
                del self._copies[older]

    def _is_part(self, module: nn.Module) -> bool:
        model = self._models.feature_model
        return model is not None and any(each is module for each in model.modules())

    def _mark(self) -> Versions:
        return tuple(each._version for each in self._weights)

    def _of(self, mark: Versions) -> list[Tensor]:
        """Return the weights of a mark, which are the current ones for the first batch."""
        self._repeats = True
        if mark == self._mark():
            self._copy(mark)
        if mark not in self._copies:
            raise ConfigError(
                "the feature model began activation checkpointing while batches were under way, and"
                " their weights are gone: switch it on in make_feature_model, or give"
                " max_staleness=0"
            )
        # The hooks of the checkpoint are on top, unless it is reentrant.
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is None:
            raise ConfigError(
                "reentrant activation checkpointing cannot be used with max_staleness: give"
                " use_reentrant=False"
            )
        return self._copies[mark]

    def _copy(self, mark: Versions) -> None:
        if mark not in self._copies:
            self._copies[mark] = [each.detach().clone() for each in self._weights]

    def _swap(self, values: list[Tensor]) -> list[Tensor]:
        """Put values into the weights, and return those that were there, without copies."""
        before = [each.data for each in self._weights]
        for weight, value in zip(self._weights, values, strict=True):
            weight.data = value
        return before


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)
