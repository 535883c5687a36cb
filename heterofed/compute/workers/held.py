"""Keeps this rank's parts of sharded tensors, and does with them what rank 0 does with its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.utils import _pytree as trees

Key = tuple[int, int]
"""Names a sharded tensor at all ranks: the number of what made it, and its place in the result."""


@dataclass(frozen=True, slots=True)
class Held:
    """Stands for a sharded tensor in an order."""

    key: Key


@dataclass(frozen=True, slots=True)
class Plain:
    """Stands for a tensor that comes beside an order."""

    place: int


@dataclass(frozen=True, slots=True)
class OwnDevice:
    """Stands for the device of a rank."""


@dataclass(frozen=True, slots=True)
class Operation:
    """The order to run an operation of PyTorch.

    Attributes:
        number: the number under which its results are noted.
        name: its name with its overload.
        args, kwargs: its arguments.
    """

    number: int
    name: str
    args: Any
    kwargs: Any


@dataclass(frozen=True, slots=True)
class FailedToo:
    """Says that the last operation failed at rank 0 too, where a hook may catch the error."""

    number: int


@dataclass(frozen=True, slots=True)
class Release:
    """The order to forget tensors, which rank 0 does not use any more."""

    keys: list[Key]


@dataclass(frozen=True, slots=True)
class Orders:
    """Several orders, one after another, each with the number of tensors beside it."""

    each: list[tuple[object, int]]


@dataclass(frozen=True, slots=True)
class Collect:
    """The order to send this rank's part of a tensor, or to take part in adding it up."""

    key: Key


@dataclass(frozen=True, slots=True)
class Place:
    """The order to take a part of a tensor, which comes beside it.

    Attributes:
        number: the number under which it is noted.
        like: a tensor that has the same division.
        shape, stride: those of the whole.
        sharded: whether it is divided; otherwise all ranks have the whole.
    """

    number: int
    like: Key
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    sharded: bool

    def made(self, like: Any, part: Tensor) -> Any:
        """Return the tensor, of which this rank has a part."""
        placements = like.placements if self.sharded else [Replicate()]
        return DTensor.from_local(
            part.to(like.device).clone(),
            like.device_mesh,
            placements,
            run_check=False,
            shape=torch.Size(self.shape),
            stride=self.stride,
        )


class HeldTensors:
    """The sharded tensors of a rank other than rank 0."""

    def __init__(self) -> None:
        self._tensors: dict[Key, Any] = {}
        self._failure: tuple[int, Exception] | None = None

    def __getitem__(self, key: Key) -> Any:
        return self._tensors[key]

    def note(self, tensors: Iterable[object], number: int) -> None:
        """Note tensors under a number."""
        for place, each in enumerate(tensors):
            if isinstance(each, DTensor):
                self._tensors[number, place] = each

    def do(self, order: object, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """Do what an order says, and return what to send to rank 0, if it waits for that.

        Raises:
            Exception: an operation has failed here, and not at rank 0.
        """
        if isinstance(order, Orders):
            return self._do_each(order, tensors)
        if isinstance(order, Release):  # it may come before the word that rank 0 has failed, too
            for key in order.keys:
                self._tensors.pop(key, None)
            return None
        failure, self._failure = self._failure, None
        if failure is not None and order != FailedToo(failure[0]):
            raise failure[1]
        match order:
            case Operation():
                try:
                    self._run(order, tensors)
                except Exception as error:
                    self._failure = order.number, error
            case Place():
                self.note([order.made(self[order.like], tensors[0])], order.number)
            case Collect():
                return self._part(self[order.key])
        return None

    def _do_each(self, orders: Orders, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        answer, start = None, 0
        for order, count in orders.each:
            found = self.do(order, tensors[start : start + count])
            answer, start = found if answer is None else answer, start + count
        return answer

    @torch.no_grad()
    def _part(self, tensor: Any) -> list[Tensor] | None:
        if isinstance(tensor.placements[0], Shard):
            return [tensor.to_local()]
        tensor.full_tensor()
        return None

    @torch.no_grad()
    def _run(self, order: Operation, tensors: Sequence[Tensor]) -> None:
        def find(each: Any) -> Any:
            if isinstance(each, Held):
                return self[each.key]
            if isinstance(each, Plain):
                return tensors[each.place]
            return self._device() if isinstance(each, OwnDevice) else each

        args, kwargs = trees.tree_map(find, (order.args, order.kwargs))
        namespace, name, overload = order.name.split(".")
        func = getattr(getattr(getattr(torch.ops, namespace), name), overload)
        self.note(trees.tree_leaves(func(*args, **kwargs)), order.number)

    def _device(self) -> torch.device:
        some: torch.device = next(iter(self._tensors.values())).device
        return some
