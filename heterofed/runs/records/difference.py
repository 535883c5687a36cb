"""Names the first difference between what was recorded and what a replay computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from msgspec import structs
from torch import Tensor

from heterofed.compute.tensors import unpack
from heterofed.protocol.codec import read_header
from heterofed.protocol.messages import Features, Gradients, Message
from heterofed.protocol.plan import Coding, Plan
from heterofed.runs.records.entries import Entry

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""An integer dtype for each size of an item, by which tensors are compared bit for bit."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference of a replay.

    Attributes:
        where: the message or checkpoint in which it is, with its round and batch.
        tensor: the name of the tensor; empty if it is not in a tensor.
        what: what differs, in words.
        index: the position of the first item that differs.
        recorded, now: its values.
        largest: the largest absolute difference in the tensor.
        differing, items: how many of the tensor's items differ, and how many there are.
    """

    where: str
    what: str
    tensor: str = ""
    index: tuple[int, ...] = ()
    recorded: float = 0.0
    now: float = 0.0
    largest: float = 0.0
    differing: int = 0
    items: int = 0

    def words(self) -> str:
        """Return the difference as a sentence."""
        if not self.items:
            return f"{self.where}: {self.what}"
        return (
            f"{self.where}: tensor {self.tensor!r} differs first at {list(self.index)}, where it"
            f" was {self.recorded:.9g} and is {self.now:.9g}; {self.differing} of {self.items}"
            f" items differ, by {self.largest:.3g} at most"
        )


def message_difference(
    entry: Entry, header: bytes, payload: bytes, plan: Plan
) -> Difference | None:
    """Compare a message that is sent with the one that was recorded.

    How long this party has computed, which `Features` tells, is not compared.

    Args:
        entry: the recorded message.
        header: the message that is sent now.
        payload: the bytes after its header.
        plan: the plan of the run, which says how tensors are encoded.
    """
    if entry.header == header and entry.payload == payload:
        return None
    before, now = _without_times(read_header(entry.header)), _without_times(read_header(header))
    where = _place(before, entry.peer)
    if type(before) is not type(now):
        return Difference(where, f"{_place(now, entry.peer)} is sent in its place")
    if fields := _fields(before, now):
        return Difference(where, f"{', '.join(fields)} of the message differ")
    if entry.payload == payload:
        return None
    if not isinstance(before, Features | Gradients):
        return Difference(where, "the bytes after its header differ")
    coding: Coding = (
        plan.compress_features if isinstance(before, Features) else plan.compress_gradients
    )
    both = [
        unpack(before.tensors, bytearray(each), entry.peer, coding=coding)
        for each in (entry.payload, payload)
    ]
    return tensor_difference(where, *both) or Difference(where, "its scales differ")


def tensor_difference(
    where: str, before: Mapping[str, Tensor], now: Mapping[str, Tensor]
) -> Difference | None:
    """Compare tensors by name, bit for bit."""
    for name, tensor in before.items():
        other = now.get(name)
        if other is None or (other.shape, other.dtype) != (tensor.shape, tensor.dtype):
            form = "is not there" if other is None else f"is {list(other.shape)} {other.dtype}"
            was = f"{list(tensor.shape)} {tensor.dtype}"
            return Difference(where, f"tensor {name!r} was {was} and {form}", name)
        if (found := _first(where, name, tensor, other)) is not None:
            return found
    if new := sorted(now.keys() - before.keys()):
        return Difference(where, f"tensor {new[0]!r} is new", new[0])
    return None


def state_difference(
    where: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> Difference | None:
    """Compare the states of models and optimizers: their tensors, and then their plain values."""
    tensors, values = zip(*(_parted(each) for each in (before, now)), strict=True)
    if (found := tensor_difference(where, *tensors)) is not None:
        return found
    for name in sorted(values[0].keys() | values[1].keys()):
        was, is_ = (repr(each.get(name, "not there")) for each in values)
        if was != is_:
            return Difference(where, f"{name} was {was} and is {is_}")
    return None


# -- within --------------------------------------------------------------------------------------


def _first(where: str, name: str, before: Tensor, now: Tensor) -> Difference | None:
    bits = [each.contiguous().reshape(-1).view(BITS[each.element_size()]) for each in (before, now)]
    differs = bits[0] != bits[1]
    if not bool(differs.any()):
        return None
    flat = int(differs.nonzero()[0])
    index = torch.unravel_index(torch.tensor(flat), before.shape) if before.dim() else ()
    was, is_ = before.reshape(-1).double(), now.reshape(-1).double()
    return Difference(
        where,
        "a tensor differs",
        name,
        tuple(int(each) for each in index),
        float(was[flat]),
        float(is_[flat]),
        float((was - is_)[differs].abs().nan_to_num(nan=torch.inf).max()),
        int(differs.sum()),
        before.numel(),
    )


def _without_times(message: Message) -> Message:
    return structs.replace(message, busy=0) if isinstance(message, Features) else message


def _fields(before: Message, now: Message) -> list[str]:
    names = type(before).__struct_fields__
    return [name for name in names if getattr(before, name) != getattr(now, name)]


def _place(message: Message, peer: str) -> str:
    number, batch = getattr(message, "round", None), getattr(message, "batch", None)
    parts = [f"round {number}"] if number is not None else []
    parts += [f"batch {batch}"] if batch is not None else []
    said = f"{type(message).__name__} to {peer}"
    return f"{said} ({', '.join(parts)})" if parts else said


def _parted(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    leaves = dict(_leaves(state, ()))
    tensors = {name: each for name, each in leaves.items() if isinstance(each, Tensor)}
    return tensors, {name: each for name, each in leaves.items() if name not in tensors}


def _leaves(value: Any, path: Sequence[object]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, (*path, key))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _leaves(each, (*path, number))
    else:
        yield ".".join(map(str, path)), value
