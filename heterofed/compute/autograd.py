"""Provides the parts of a split training step: backward from the cut layer, modes and devices."""

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
from heterofed.compute.transfer import to_device
from heterofed.errors import ConfigError, LocalProtocolError

_THREADS_AT_IMPORT = torch.get_num_threads()


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Put modules into eval mode without gradients, and restore each submodule's mode at the
    end.
    """
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
    """Divide this machine's cores among the parties that run on it, and restore torch's setting.

    Parties that each use one thread per core slow each other down. A number of threads that the
    user set (`OMP_NUM_THREADS`, `torch.set_num_threads`) is not changed.
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
        features: the output of the feature model, by name.
        gradients: the gradients by the same names, on any device.
        retain: whether to keep the graph for another backward pass with other gradients.
    """
    pairs = [
        (features[name], to_device(gradient, features[name].device))
        for name, gradient in gradients.items()
        if features[name].requires_grad
    ]
    if pairs:
        tensors, grads = zip(*pairs, strict=True)
        torch.autograd.backward(tensors, grads, retain_graph=retain)


def gradients_like(
    layout: Layout, features: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> Any:
    """Arrange gradients as the hook arranged its features, with None for missing ones."""
    placed = {
        name: to_device(gradients[name], feature.device) if name in gradients else None
        for name, feature in features.items()
    }
    if layout == "tensor":
        return next(iter(placed.values()))
    return tuple(placed.values()) if layout == "tuple" else placed


def gradients_by_name(features: Mapping[str, Tensor], gradients: Any) -> dict[str, Tensor]:
    """Invert `gradients_like`: return the gradients that are not None, by tensor name.

    Raises:
        LocalProtocolError: the gradients do not match the features.
    """
    if isinstance(gradients, Tensor) or gradients is None:
        gradients = (gradients,)
    values = gradients.values() if isinstance(gradients, dict) else gradients
    if len(values) != len(features):
        raise LocalProtocolError("update_feature_model got other gradients than features")
    return {name: value for name, value in zip(features, values, strict=True) if value is not None}


def device_of(own: Mapping[str, Tensor], model: nn.Module | None) -> torch.device | None:
    """Return the device for peers' features: that of the Host's features, or of its infer model."""
    for tensor in own.values():
        return tensor.device
    parameter = next(model.parameters(), None) if model is not None else None
    return parameter.device if parameter is not None else None


def check_model(model: object, hook: str) -> nn.Module | None:
    """Check the result of a model hook.

    Raises:
        ConfigError: it is neither a Module nor None.
    """
    if model is None or isinstance(model, nn.Module):
        return model
    raise ConfigError(f"{hook} returned a {type(model).__name__}; return a torch.nn.Module or None")


def check_optimizer(optimizer: object, hook: str) -> Optimizer | None:
    """Check the result of an optimizer hook, and join several optimizers to one.

    Raises:
        ConfigError: it is neither an Optimizer, nor a list or tuple of them, nor None.
    """
    if optimizer is None or isinstance(optimizer, Optimizer):
        return optimizer
    several = isinstance(optimizer, list | tuple) and all(
        isinstance(each, Optimizer) for each in optimizer
    )
    if several and optimizer:
        return JointOptimizer(optimizer)  # type: ignore[arg-type]
    raise ConfigError(
        f"{hook} returned a {type(optimizer).__name__}; return a torch.optim.Optimizer, a list of"
        " them, or None"
    )


def has_weights(model: nn.Module | None) -> bool:
    """Return whether a model has any parameter."""
    return model is not None and next(model.parameters(), None) is not None


BATCH_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d),
)
"""The modules in which the rows of a batch influence one another."""


def has_batch_norm(model: nn.Module | None) -> bool:
    """Return whether a model mixes the rows of a batch."""
    return model is not None and any(isinstance(each, BATCH_NORMS) for each in model.modules())


def optimizer_of(model: nn.Module, make: Callable[[nn.Module], object]) -> object:
    """Return the optimizer that a hook makes for a model, or None for a model without
    parameters.
    """
    try:
        return make(model)
    except ValueError as error:
        if has_weights(model) or "empty parameter list" not in str(error):
            raise
        return None


class Lazy:
    """Makes a value at the first call, and refuses calls while the value is being made."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made = False
        self._making = False
        self._value: Any = None

    def __call__(self) -> Any:
        """Return the value.

        Raises:
            LocalProtocolError: the value is being made by this very call.
        """
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
