"""The split training step: backward from the cut layer, modes, devices. Knows torch; no sockets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.compute.joint_optimizer import JointOptimizer
from heterofed.compute.tensors import Layout
from heterofed.errors import ConfigError, LocalProtocolError

_THREADS_AT_IMPORT = torch.get_num_threads()


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Put modules into eval mode, without gradients, and restore each submodule's mode after."""
    modes = [
        (sub, sub.training) for module in modules if module is not None for sub in module.modules()
    ]
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


def gradients_by_name(features: Mapping[str, Tensor], gradients: Any) -> dict[str, Tensor]:
    """The inverse of `gradients_like`: gradients by tensor name, without those that are None.

    Raises:
        LocalProtocolError: there are other gradients than features.
    """
    if isinstance(gradients, Tensor) or gradients is None:
        gradients = (gradients,)
    values = gradients.values() if isinstance(gradients, dict) else gradients
    if len(values) != len(features):
        raise LocalProtocolError("update_feature_model got other gradients than features")
    return {name: value for name, value in zip(features, values, strict=True) if value is not None}


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
    """Check what an optimizer hook returned; several become one.

    Raises:
        ConfigError: neither an Optimizer, nor a list or tuple of them, nor None.
    """
    if optimizer is None or isinstance(optimizer, Optimizer):
        return optimizer
    several = isinstance(optimizer, list | tuple) and all(
        isinstance(each, Optimizer) for each in optimizer
    )
    if several and optimizer:
        return JointOptimizer(optimizer)  # type: ignore[arg-type]
    raise ConfigError(
        f"{hook} must return a torch.optim.Optimizer, a list of them, or None, not"
        f" {type(optimizer).__name__}"
    )


def has_weights(model: nn.Module | None) -> bool:
    """Whether a model has any parameter."""
    return model is not None and next(model.parameters(), None) is not None


BATCH_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d),
)
"""Modules in which the rows of a batch change one another."""


def has_batch_norm(model: nn.Module | None) -> bool:
    """Whether a model mixes the rows of a batch."""
    return model is not None and any(isinstance(each, BATCH_NORMS) for each in model.modules())


def optimizer_of(model: nn.Module, make: Callable[[nn.Module], object]) -> object:
    """What an optimizer hook makes for a model; None where torch refuses to optimize nothing."""
    try:
        return make(model)
    except ValueError as error:
        if has_weights(model) or "empty parameter list" not in str(error):
            raise
        return None


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
