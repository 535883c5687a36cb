"""The split training step: leaves, gradients, modes. Knows torch; no sockets.

Peers' features are leaves of the Host's graph that require grad; the Host's own stay attached to
theirs. What their `.grad` holds when `train_a_batch` returns is what travels back.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.errors import ConfigError, LocalProtocolError
from heterofed.tensors import Layout, is_finite, takes_gradient

_THREADS_AT_IMPORT = torch.get_num_threads()


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Put modules into eval mode, without gradients, and restore each submodule's mode after."""
    modes = [(sub, sub.training) for module in modules if module for sub in module.modules()]
    for module in modules:
        if module is not None:
            module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for sub, was_training in modes:
            sub.training = was_training


@contextmanager
def sharing_cores(parties: int) -> Iterator[None]:
    """Let torch use this machine's cores divided by the parties that run on it, and restore it.

    Parties with a thread per core each spend most of their time in each other's way. What the
    user has set (`OMP_NUM_THREADS`, `torch.set_num_threads`) stays as it is.
    """
    before = torch.get_num_threads()
    chosen = before != _THREADS_AT_IMPORT or before * 2 < (os.cpu_count() or 1)
    if chosen or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    torch.set_num_threads(max(1, before // parties))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class OptimizerGroup:
    """Several optimizers as one: `zero_grad` and `step` go to each of them.

    `self.optimizer` of the Host: covers the infer model and the Host's own feature model.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = tuple(optimizers)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of every parameter."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """One step of each optimizer."""
        for optimizer in self.optimizers:
            optimizer.step()


def as_leaves(tensors: Mapping[str, Tensor], *, trainable: bool) -> dict[str, Tensor]:
    """Make received features leaves of the graph; floating ones collect gradients."""
    for tensor in tensors.values():
        tensor.requires_grad_(trainable and takes_gradient(tensor))
    return dict(tensors)


class EarlyGradients:
    """Gradients of one party's leaves, handed on the moment backward has all of them.

    The Host's own half is still in backward then. `changed` tells afterwards whether something
    (clipping, a second backward) has made them others than those that were handed on.

    What is handed on early is what backward gave: noise or clipping after it comes too late to hide
    that. So this is for Hosts that say they change nothing.

    Args:
        leaves: the party's features, as `as_leaves` made them.
        hand_on: gets the gradients by name; called at most once, on the thread that made this.
    """

    def __init__(
        self, leaves: Mapping[str, Tensor], hand_on: Callable[[dict[str, Tensor]], None]
    ) -> None:
        self._leaves = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        self._hand_on = hand_on
        self._missing = len(self._leaves)
        self._handed: dict[str, Tensor] | None = None
        self._thread = threading.get_ident()
        self._hooks = [
            leaf.register_post_accumulate_grad_hook(self._accumulated)  # type: ignore[no-untyped-call]
            for leaf in self._leaves.values()
        ]

    def changed(self) -> bool:
        """Whether the leaves hold other gradients now than those handed on; ends the watch."""
        for hook in self._hooks:
            hook.remove()
        now = gradients_of(self._leaves)
        if self._handed is None:
            return bool(now)
        # By value: neither identity nor version tells of edits through `.grad.data`.
        return now.keys() != self._handed.keys() or not all(
            torch.equal(gradient, self._handed[name]) for name, gradient in now.items()
        )

    def _accumulated(self, _leaf: Tensor) -> None:
        self._missing -= 1
        # Backward of CUDA graphs runs on a thread of its own, where nothing of ours may be sent.
        if self._missing != 0 or threading.get_ident() != self._thread:
            return
        gradients = gradients_of(self._leaves)
        if all(is_finite(each) for each in gradients.values()):
            self._handed = {name: each.clone() for name, each in gradients.items()}
            self._hand_on(self._handed)


def gradients_of(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients that leaves hold now; without those that the loss did not use."""
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def backward(
    features: Mapping[str, Tensor], gradients: Mapping[str, Tensor], *, retain: bool = False
) -> None:
    """Run backward through a feature model from the gradients at the cut layer.

    Args:
        features: as the feature model gave them.
        gradients: by the same names, on any device.
        retain: keep the graph, for another backward with other gradients.
    """
    pairs = [
        (features[name], gradient.to(features[name].device))
        for name, gradient in gradients.items()
        if features[name].requires_grad
    ]
    if pairs:
        tensors, grads = zip(*pairs, strict=True)
        torch.autograd.backward(tensors, grads, retain_graph=retain)


def gradients_like(
    layout: Layout, features: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> Any:
    """Arrange gradients as the hook had arranged its features; None where there is none."""
    placed = {
        name: gradients[name].to(feature.device) if name in gradients else None
        for name, feature in features.items()
    }
    if layout == "tensor":
        return next(iter(placed.values()))
    return tuple(placed.values()) if layout == "tuple" else placed


def device_of(own: Mapping[str, Tensor], model: nn.Module | None) -> torch.device | None:
    """Where peers' features should live: with the Host's own, else with its infer model."""
    for tensor in own.values():
        return tensor.device
    parameter = next(model.parameters(), None) if model is not None else None
    return parameter.device if parameter is not None else None


def check_model(model: object, hook: str) -> nn.Module | None:
    """Check what a model hook returned.

    Raises:
        ConfigError: neither a Module nor None.
    """
    if model is None or isinstance(model, nn.Module):
        return model
    raise ConfigError(f"{hook} must return a torch.nn.Module or None, not {type(model).__name__}")


def check_optimizer(optimizer: object, hook: str) -> Optimizer | None:
    """Check what an optimizer hook returned.

    Raises:
        ConfigError: neither an Optimizer nor None.
    """
    if optimizer is None or isinstance(optimizer, Optimizer):
        return optimizer
    raise ConfigError(
        f"{hook} must return a torch.optim.Optimizer or None, not {type(optimizer).__name__}"
    )


class Lazy:
    """Makes a value once, when it is first asked for; refuses to be asked while making it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made = False
        self._making = False
        self._value: Any = None

    def __call__(self) -> Any:
        """The value."""
        if not self._made:
            if self._making:
                raise LocalProtocolError("a hook that makes a model or optimizer asked for itself")
            self._making = True
            try:
                self._value = self._make()
            finally:
                self._making = False
            self._made = True
        return self._value
