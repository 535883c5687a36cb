"""Named tensors <-> specs and buffers. Knows torch and the dtypes that may travel; no sockets.

Buffers are row-major and little-endian. Outgoing ones refer to the tensor's own memory where it
is contiguous and on the CPU; incoming tensors share the memory of the received payload.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from heterofed.errors import FeatureError, NonFiniteError, RemoteProtocolError
from heterofed.protocol.messages import GRADIENT_DTYPES, ITEM_BYTES, TensorSpec

Features: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
Layout: TypeAlias = Literal["tensor", "tuple", "dict"]

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("heterofed sends tensors in little-endian order and runs on such machines")


def named(features: object, where: str) -> tuple[Layout, dict[str, Tensor]]:
    """Give every tensor of what a hook yielded its name, and check that it may travel.

    Args:
        features: a tensor, a non-empty tuple (or list) or a non-empty dict of tensors.
        where: names the hook in error messages.

    Raises:
        FeatureError: anything else, or unequal first dimensions, or a dtype that cannot travel.
    """
    layout: Layout
    tensors: dict[str, Tensor]
    if isinstance(features, Tensor):
        layout, tensors = "tensor", {"": features}
    elif isinstance(features, Mapping):
        layout, tensors = "dict", dict(features)
    elif isinstance(features, tuple | list):
        layout, tensors = "tuple", {str(i): each for i, each in enumerate(features)}
    else:
        raise FeatureError(
            f"{where} yielded a {type(features).__name__} as features; yield a tensor, or a tuple"
            " or dict of tensors"
        )
    if not 0 < len(tensors) <= 256:
        raise FeatureError(f"{where} yielded {len(tensors)} tensors; 1 to 256 can travel")
    for name, tensor in tensors.items():
        label = f"{where}, tensor {name!r}" if name else where
        if not isinstance(name, str) or len(name) > 128 or not name.isprintable():
            raise FeatureError(f"{where} yielded a dict whose keys are not short, plain strings")
        if not isinstance(tensor, Tensor):
            raise FeatureError(f"{label}: a {type(tensor).__name__} is not a tensor")
        if dtype_name(tensor) not in ITEM_BYTES:
            raise FeatureError(
                f"{label}: dtype {tensor.dtype} cannot travel; use one of {', '.join(ITEM_BYTES)}"
            )
        if not 1 <= tensor.dim() <= 16:
            raise FeatureError(f"{label}: {tensor.dim()} dimensions; the first must be the rows")
    rows = {len(tensor) for tensor in tensors.values()}
    if len(rows) != 1:
        raise FeatureError(f"{where} yielded tensors of unequal row counts {sorted(rows)}")
    return layout, tensors


def dtype_name(tensor: Tensor) -> str:
    """Name of a tensor's dtype without the module: `float32`."""
    return str(tensor.dtype).removeprefix("torch.")


def takes_gradient(tensor: Tensor) -> bool:
    """Whether gradients of this dtype travel."""
    return dtype_name(tensor) in GRADIENT_DTYPES


def check_finite(tensors: Mapping[str, Tensor], what: str, party: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        NonFiniteError: naming `what` and `party`.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all().item():
            label = f" {name!r}" if name else ""
            raise NonFiniteError(
                f"{what}{label} at {party} holds NaN or infinity; lower the learning rate, clip"
                " gradients, or look for missing values in the data",
                party=party,
            )


def pack(tensors: Mapping[str, Tensor]) -> tuple[tuple[TensorSpec, ...], list[memoryview]]:
    """Describe tensors and give their bytes; no copy of contiguous CPU tensors."""
    specs, buffers = [], []
    for name, tensor in tensors.items():
        specs.append(TensorSpec(name, dtype_name(tensor), tuple(tensor.shape)))  # type: ignore[arg-type]
        plain = tensor.detach().contiguous().cpu()
        buffers.append(plain.reshape(-1).view(torch.uint8).numpy().data)
    return tuple(specs), buffers


def unpack(
    specs: Sequence[TensorSpec],
    payload: bytearray,
    party: str,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Build tensors over a received payload; the inverse of `pack`.

    Args:
        specs: already checked by the session against the payload's length.
        payload: the tensors' bytes, one after another.
        party: who sent it, for errors.
        device: where the tensors should live; None leaves them on the CPU.

    Raises:
        RemoteProtocolError: the payload does not hold what the specs say.
    """
    if sum(spec.nbytes for spec in specs) != len(payload):
        raise RemoteProtocolError(
            f"{party} sent tensors of other sizes than their specs say", party=party
        )
    tensors: dict[str, Tensor] = {}
    offset = 0
    for spec in specs:
        dtype: torch.dtype = getattr(torch, spec.dtype)
        if spec.nbytes == 0:
            tensor = torch.empty(spec.shape, dtype=dtype)
        else:
            part = memoryview(payload)[offset : offset + spec.nbytes]
            if spec.dtype == "bool" and np.frombuffer(part, np.uint8).max() > 1:
                raise RemoteProtocolError(
                    f"{party} sent a boolean tensor with items other than 0 and 1", party=party
                )
            if offset % ITEM_BYTES[spec.dtype]:
                part = memoryview(bytearray(part))
            tensor = torch.frombuffer(part, dtype=dtype).reshape(spec.shape)
        tensors[spec.name] = tensor if device is None else tensor.to(device)
        offset += spec.nbytes
    return tensors


def restore(layout: Layout, tensors: Mapping[str, Tensor]) -> Features:
    """Put named tensors back into the form in which the hook yielded them."""
    if layout == "tensor" and len(tensors) == 1:
        return next(iter(tensors.values()))
    if layout == "tuple":
        return tuple(tensors.values())
    return dict(tensors)
