"""Describes the tensors of a model, reads and writes them, and checks those that a peer sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import torch
from torch import Tensor, nn

from heterofed.compute.tensors import check_finite, dtype_name, pack, unpack
from heterofed.compute.wrappers import plain_names, plain_state
from heterofed.errors import ConfigError, FeatureError
from heterofed.protocol.messages import ITEM_BYTES, MAX_WEIGHTS, TensorSpec, WeightSpec

Layout = tuple[WeightSpec, ...]


def layout_of(model: nn.Module) -> Layout:
    """Return the tensors of a model in order, without their values.

    Raises:
        ConfigError: the model has no weights, too many tensors, or tensors that cannot be sent.
    """
    names = plain_names(model, [name for name, _ in model.named_parameters()])
    learning = {names[name] for name, each in model.named_parameters() if each.requires_grad}
    state = plain_state(model)
    if not learning or len(state) > MAX_WEIGHTS:
        raise ConfigError(
            f"make_model returned a model with {len(state)} tensors, {len(learning)} of which"
            f" learn; return one with 1 tensor that learns or more, and {MAX_WEIGHTS} at most"
        )
    return tuple(_spec(name, each, name in learning) for name, each in state.items())


def _spec(name: str, tensor: object, learns: bool) -> WeightSpec:
    if not isinstance(tensor, Tensor) or nn.parameter.is_lazy(tensor):
        raise ConfigError(
            f"make_model: {name} has no values yet; run the model on one batch in make_model, or"
            " keep this state in extra_state"
        )
    if dtype_name(tensor) not in ITEM_BYTES or tensor.layout is not torch.strided:
        raise ConfigError(
            f"make_model: {name} is of {tensor.dtype}, which cannot be sent; convert it to"
            " another dtype"
        )
    spec = (name, dtype_name(tensor), tuple(tensor.shape), learns)
    try:
        return msgspec.convert(spec, WeightSpec)
    except msgspec.ValidationError:
        raise ConfigError(
            f"make_model: {name!r} cannot be sent; give a tensor of 8 dimensions at most, and a"
            " name of up to 128 ASCII characters without spaces"
        ) from None


def differences(one: Layout, other: Layout) -> str:
    """Return the first difference between two layouts as text without a party's values; empty if
    there is none.
    """
    if len(one) != len(other):
        return f"{len(one)} tensors and {len(other)}"
    for number, (here, there) in enumerate(zip(one, other, strict=True)):
        if here != there:
            return (
                f"tensor {number}: {here.name!r} {list(here.shape)} {here.dtype} and"
                f" {there.name!r} {list(there.shape)} {there.dtype}"
                + ("" if here.learns == there.learns else ", of which one learns")
            )
    return ""


def check_same(layouts: Mapping[str, Layout]) -> Layout:
    """Return the layout that all parties have.

    Raises:
        FeatureError: two parties have other models. The message names both and the first
            difference.
    """
    first, *others = layouts
    for other in others:
        if found := differences(layouts[first], layouts[other]):
            raise FeatureError(
                f"the models of {first} and {other} differ ({found}); make the same model in"
                " make_model at every party",
                party=other,
            )
    return layouts[first]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of a model's tensors on the CPU."""
    return {name: each.detach().cpu().clone() for name, each in plain_state(model).items()}


def load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write weights into a model, in place."""
    with torch.no_grad():
        for name, each in plain_state(model).items():
            each.copy_(weights[name])


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of the tensors that learn (zeros for those without one), and the values
    of all others.
    """
    names = plain_names(model, [name for name, _ in model.named_parameters()])
    found = state_of(model)
    for name, each in model.named_parameters():
        if each.requires_grad:
            gradient = torch.zeros_like(each) if each.grad is None else each.grad
            found[names[name]] = gradient.detach().cpu().clone()
    return found


def packed(weights: Mapping[str, Tensor]) -> list[memoryview]:
    """Return the bytes of the weights in their order."""
    return pack(weights)[1]


def unpacked(layout: Layout, payload: bytearray, party: str, what: str) -> dict[str, Tensor]:
    """Return the weights that a peer sent.

    Args:
        layout: the layout that all parties have.
        payload: the bytes of the tensors.
        party: the party that sent them.
        what: what they are, for errors.

    Raises:
        RemoteProtocolError: the bytes are not those of such tensors.
        NonFiniteError: there is NaN or infinity among them.
    """
    specs = [TensorSpec(each.name, each.dtype, each.shape) for each in layout]
    weights = unpack(specs, payload, party)
    check_finite(weights, what, party)
    return weights


def flat(weights: Mapping[str, Tensor]) -> Tensor:
    """Return all numbers in one float64 tensor."""
    return torch.cat([each.reshape(-1).to(torch.float64) for each in weights.values()])


def apart(layout: Layout, numbers: Tensor) -> dict[str, Tensor]:
    """Return float64 tensors by name; this inverts `flat`."""
    parts = torch.split(numbers, [each.items for each in layout])
    return {spec.name: part.reshape(spec.shape) for spec, part in zip(layout, parts, strict=True)}


def as_of(layout: Layout, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return float64 tensors in the dtypes of a layout; whole numbers are rounded."""
    return {spec.name: _as(spec.dtype)(weights[spec.name]) for spec in layout}


def _as(name: str) -> Callable[[Tensor], Tensor]:
    dtype: torch.dtype = getattr(torch, name)
    if dtype == torch.bool:
        return lambda tensor: tensor > 0.5
    if dtype.is_floating_point:
        return lambda tensor: tensor.to(dtype)
    return lambda tensor: tensor.round().to(dtype)


def norm_of_change(
    before: Mapping[str, Tensor] | None, after: Mapping[str, Tensor], learns: Sequence[str]
) -> float:
    """Return the L2 norm of a change of weights, or of gradients if `before` is None."""
    total = 0.0
    for name in learns:
        change = after[name].to(torch.float64)
        if before is not None:
            change = change - before[name].to(torch.float64)
        total += float(change.square().sum())
    return float(total**0.5)
