"""Converts named tensors to specs and buffers, and back.

Buffers are row-major and little-endian. Outgoing buffers share the memory of tensors that are
contiguous and on the CPU; incoming tensors share the memory of the received payload. Compressed
tensors are rounded to float16, to bfloat16, or to int8 with one float32 scale per row.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from heterofed.compute.transfer import LateCheck, to_device, to_host
from heterofed.errors import FeatureError, NonFiniteError, RemoteProtocolError
from heterofed.protocol.messages import GRADIENT_DTYPES, ITEM_BYTES, TensorSpec
from heterofed.protocol.plan import Coding

Features: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
Layout: TypeAlias = Literal["tensor", "tuple", "dict"]

SMALL = 1 << 16
"""The most numbers of a tensor whose check is one call of torch, as calls take longer than work."""

PLAIN = (torch.float32, torch.float64)
"""The dtypes in which most features are, and for which there are quick ways."""

if sys.byteorder != "little":
    raise ImportError("heterofed sends tensors in little-endian order and runs on such machines")


def named(features: object, where: str) -> tuple[Layout, dict[str, Tensor]]:
    """Name every tensor of the features that a hook yielded, and check that it can be sent.

    Args:
        features: a tensor, a non-empty tuple (or list) or a non-empty dict of tensors.
        where: the name of the hook for errors.

    Raises:
        FeatureError: the features have another form, unequal first dimensions, or a dtype that
            cannot be sent.
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
        raise FeatureError(
            f"{where} yielded {len(tensors)} tensors; 1 to 256 can be sent, so yield as many"
        )
    for name, tensor in tensors.items():
        label = f"{where}, tensor {name!r}" if name else where
        if not isinstance(name, str) or len(name) > 128 or not name.isprintable():
            raise FeatureError(
                f"{where} yielded a dict whose keys are not short, plain strings; use strings of at"
                " most 128 characters"
            )
        if not isinstance(tensor, Tensor):
            raise FeatureError(f"{label} is not a tensor but {_kind_of(tensor)}")
        if dtype_name(tensor) not in ITEM_BYTES:
            raise FeatureError(
                f"{label}: dtype {tensor.dtype} cannot be sent; use one of {', '.join(ITEM_BYTES)}"
            )
        if tensor.layout is not torch.strided:
            raise FeatureError(f"{label}: a sparse tensor cannot be sent; use its to_dense()")
        if not 1 <= tensor.dim() <= 16:
            raise FeatureError(
                f"{label}: {tensor.dim()} dimensions; yield 1 to 16, of which the first is the rows"
            )
    rows = {len(tensor) for tensor in tensors.values()}
    if len(rows) != 1:
        raise FeatureError(
            f"{where} yielded tensors of unequal row counts {sorted(rows)}; yield tensors with one"
            " first dimension"
        )
    return layout, tensors


def _kind_of(value: object) -> str:
    ids = isinstance(value, list | tuple) and bool(value) and isinstance(value[0], str)
    remedy = "put ids into Batch(features, ids=...)" if ids else "yield tensors"
    return f"of type {type(value).__name__}; {remedy}"


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's dtype without the module, such as `float32`."""
    return _name_of(tensor.dtype)


@functools.cache
def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def takes_gradient(tensor: Tensor) -> bool:
    """Return whether a tensor of this dtype gets a gradient."""
    return dtype_name(tensor) in GRADIENT_DTYPES


def check_finite(tensors: Mapping[str, Tensor], what: str, party: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        NonFiniteError: a tensor holds one of them; the message names `what` and `party`.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            raise _non_finite(what, name, party)


def confirm_finite(check: LateCheck, what: str, party: str) -> None:
    """Refuse NaN and infinity that a check found on a GPU; see `check_finite`."""
    for name in check.suspects():
        raise _non_finite(what, name, party)


def _non_finite(what: str, name: str, party: str) -> NonFiniteError:
    label = f" {name!r}" if name else ""
    return NonFiniteError(
        f"{what}{label} at {party} holds NaN or infinity; lower the learning rate, clip"
        " gradients, or look for missing values in the data",
        party=party,
    )


def is_finite(tensor: Tensor) -> bool:
    """Return whether a floating-point tensor holds neither NaN nor infinity, without a copy
    of it.
    """
    plain = tensor.detach()
    if plain.numel() <= SMALL and plain.dtype in PLAIN and plain.device.type == "cpu":
        numbers = plain.reshape(-1)
        if math.isfinite(torch.dot(numbers, numbers).item()):
            return True  # a sum of squares is finite only if every number is
    wide = torch.float64 if plain.dtype == torch.float64 else torch.float32
    parts = torch.split(plain.reshape(-1), 1 << 20)
    # On the CPU, torch makes a wider copy of half-precision numbers before it adds them.
    added = parts if plain.dtype != wide and plain.device.type == "cpu" else (plain,)
    if all(math.isfinite(part.sum(dtype=wide).item()) for part in added):
        return True  # a sum is finite only if every number is
    return all(bool(torch.isfinite(part).all()) for part in parts)


def pack(
    tensors: Mapping[str, Tensor], coding: Coding = "none", party: str = "", *, unchecked: str = ""
) -> tuple[tuple[TensorSpec, ...], list[memoryview]]:
    """Return the specs and the bytes of tensors.

    Contiguous tensors on the CPU are not copied unless they are compressed.

    Args:
        tensors: the tensors by name, of dtypes that can be sent.
        coding: the compression of floating-point tensors.
        party: the party that owns the tensors, for errors.
        unchecked: what the tensors are, for errors, if those on a GPU have not been checked yet
            whether they are finite. They are checked here without a further wait for the GPU.

    Raises:
        NonFiniteError: a value is too large for the coding, or not finite.
    """
    specs, parts, coded = [], list[Tensor](), list[Tensor]()
    for name, tensor in tensors.items():
        spec = TensorSpec(name, dtype_name(tensor), tuple(tensor.shape))  # type: ignore[arg-type]
        specs.append(spec)
        some = [tensor.detach()]
        if spec.is_coded(coding):
            some = _code(some[0], coding)
            coded.append(some[0])  # the last part may be int8, which is always finite
        parts += some
    if not coded and not any(part.is_cuda for part in parts):  # as on most machines
        return tuple(specs), [_bytes_of(part) for part in parts]
    parts = [part.contiguous() for part in parts]
    sound = LateCheck(tensors if unchecked else {})
    fits = LateCheck({str(place): each for place, each in enumerate(coded)})
    parts = to_host(parts)
    confirm_finite(sound, unchecked, party)
    if fits.suspects() or not all(is_finite(each) for each in coded if not each.is_cuda):
        raise NonFiniteError(
            f"a tensor of {party} holds values too large to be sent as {coding};"
            " compress by bf16, or not at all",
            party=party,
        )
    return tuple(specs), [_bytes_of(part) for part in parts]


def _bytes_of(part: Tensor) -> memoryview:
    """Return the bytes of a tensor without a graph; those of a contiguous one on the CPU are not
    copied.
    """
    if not part.numel():
        return memoryview(b"")
    # NumPy has no bfloat16.
    plain = part.cpu().contiguous()
    plain = plain.view(torch.int16) if plain.dtype is torch.bfloat16 else plain
    return plain.numpy().data.cast("B")


def _code(tensor: Tensor, coding: Coding) -> list[Tensor]:
    """Compress a floating-point tensor to the parts that are sent."""
    if coding == "fp16":
        return [tensor.to(torch.float16)]
    if coding == "bf16":
        return [tensor.to(torch.bfloat16)]
    rows = tensor.reshape(len(tensor), -1).float()
    scales = rows.abs().amax(dim=1) / 127
    tiny = torch.finfo(torch.float32).tiny
    steps = rows / scales.clamp_min(tiny).unsqueeze(1)
    # Rows of zeros, or of numbers too small to differ from zero, are sent as zeros.
    scales.masked_fill_(scales < tiny, 0)
    return [scales, steps.round_().clamp_(-127, 127).to(torch.int8)]


def unpack(
    specs: Sequence[TensorSpec],
    payload: bytearray,
    party: str,
    device: torch.device | None = None,
    coding: Coding = "none",
) -> dict[str, Tensor]:
    """Build tensors from a received payload; this inverts `pack`.

    Args:
        specs: the specs, which the session has checked against the payload's length.
        payload: the tensors' bytes, one after another.
        party: the party that sent them, for errors.
        device: the device for the tensors; None leaves them on the CPU.
        coding: the compression of floating-point tensors.

    Raises:
        RemoteProtocolError: the payload does not match the specs.
    """
    sizes = [spec.coded_bytes(coding) for spec in specs]
    if sum(sizes) != len(payload):
        raise RemoteProtocolError(
            f"{party} sent tensors of other sizes than their specs say;"
            f" {RemoteProtocolError.remedy}",
            party=party,
        )
    tensors: dict[str, Tensor] = {}
    rest = memoryview(payload)
    for spec, size in zip(specs, sizes, strict=True):
        tensors[spec.name] = to_device(_decoded(spec, rest[:size], party, coding), device)
        rest = rest[size:]
    return tensors


def _decoded(spec: TensorSpec, part: memoryview, party: str, coding: Coding) -> Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if not part.nbytes:  # no coding makes nothing of something
        return torch.empty(spec.shape, dtype=dtype, device="cpu")
    if not spec.is_coded(coding):
        if spec.dtype == "bool" and np.frombuffer(part, np.uint8).max() > 1:
            raise RemoteProtocolError(
                f"{party} sent a boolean tensor with items other than 0 and 1;"
                f" {RemoteProtocolError.remedy}",
                party=party,
            )
        return _from_bytes(part, dtype).reshape(spec.shape)
    if coding != "int8":
        half = torch.float16 if coding == "fp16" else torch.bfloat16
        return _from_bytes(part, half).to(dtype).reshape(spec.shape)
    rows = spec.shape[0]
    scales = _from_bytes(part[: 4 * rows], torch.float32)
    if not bool((torch.isfinite(scales) & (scales >= 0)).all()):
        raise RemoteProtocolError(
            f"{party} sent a compressed tensor whose scales are not numbers from 0 on;"
            f" {RemoteProtocolError.remedy}",
            party=party,
        )
    if np.frombuffer(part[4 * rows :], np.int8).min() < -127:
        raise RemoteProtocolError(
            f"{party} sent a compressed tensor with items outside of -127 to 127;"
            f" {RemoteProtocolError.remedy}",
            party=party,
        )
    steps = _from_bytes(part[4 * rows :], torch.int8).reshape(rows, -1)
    values = steps.float().mul_(scales.unsqueeze(1))
    return values.to(dtype).reshape(spec.shape)


def _from_bytes(part: memoryview, dtype: torch.dtype) -> Tensor:
    """Return a flat tensor that shares these bytes if they are aligned."""
    tensor = torch.frombuffer(part, dtype=dtype)
    if tensor.data_ptr() % dtype.itemsize:
        # torch needs items at addresses that are multiples of their size
        tensor = torch.frombuffer(part, dtype=torch.uint8).clone().view(dtype)
    return tensor


def restore(layout: Layout, tensors: Mapping[str, Tensor]) -> Features:
    """Arrange named tensors in the form in which the hook yielded them."""
    if layout == "tensor" and len(tensors) == 1:
        return next(iter(tensors.values()))
    if layout == "tuple":
        return tuple(tensors.values())
    return dict(tensors)
