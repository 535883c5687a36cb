"""Is a rank other than rank 0 of a model whose weights are divided among the ranks."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.fsdp import fill, meshed, shard
from heterofed.compute.workers.held import HeldTensors, Key
from heterofed.compute.workers.rows import check_rows
from heterofed.compute.workers.worker import Forward, Model, computed, learning, own_gpu


@dataclass(frozen=True, slots=True)
class ShardedModel(Model):
    """The order to take a model, and this rank's part of each weight, which comes beside it.

    Attributes:
        pickled: the model without its weights.
        number: the number under which the weights are noted.
        kind: the kind of device that computes.
        timeout: the longest time that the ranks wait for one another.
    """

    number: int
    kind: str
    timeout: timedelta

    def worker(self, tensors: Sequence[Tensor], exchange: Exchange) -> ShardWorker:
        """Return this rank's part of the model."""
        return ShardWorker(self, tensors, exchange)


@dataclass(frozen=True, slots=True)
class ShardedBackward:
    """The order to run backward from the gradients of what a forward pass returned.

    Attributes:
        forward: the number of the forward pass.
        before: the gradient that each weight has at rank 0 until now.
        number: the number under which new gradients of the weights are noted.
        keep: whether another backward pass may follow.
    """

    forward: int
    before: list[Key | None]
    number: int
    keep: bool


class ShardWorker:
    """The part of a feature model at one rank.

    Args:
        order: the order that brought it.
        weights: this rank's part of each weight.
        exchange: the connections to the other ranks.
    """

    stays = False

    def __init__(self, order: ShardedModel, weights: Sequence[Tensor], exchange: Exchange) -> None:
        # It is part of a message of this party's first process, whose tag was checked.
        model: nn.Module = pickle.loads(order.pickled)  # noqa: S301
        self._device = torch.device(order.kind)
        if order.kind == "cuda":
            self._device = own_gpu()
            torch.cuda.set_device(self._device)
        mesh = meshed(order.kind, exchange.ranks, order.timeout)
        self._root = shard(model, mesh, exchange.together)
        fill(self._root, self._device, weights)
        self._model, self._weights = model, list(model.parameters())
        self._graphs: dict[int, list[Tensor]] = {}
        self._held = HeldTensors()
        self._held.note(self._weights, order.number)

    def obey(self, order: Any, tensors: list[Tensor]) -> list[Tensor] | None:
        """Take part in a pass, or do with sharded tensors what rank 0 does."""
        found = self._held.do(order, tensors)
        match order:
            case Forward():
                return self.forward(order, tensors)
            case ShardedBackward():
                return self.backward(order, tensors)
        return found

    def forward(self, order: Forward, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return what the model returns for a part of the rows."""
        for number in order.released:
            self._graphs.pop(number, None)
        tensors = [each.to(self._device) for each in tensors]
        if order.weights:
            with torch.no_grad():
                for own, given in zip(self._model.buffers(), tensors[order.tensors :], strict=True):
                    own.copy_(given)
        outputs = computed(
            order, self._model, tensors, lambda args, kwargs: self._root(*args, **kwargs)
        )
        check_rows(outputs, len(tensors[0]))
        if order.grad:
            self._graphs[order.number] = outputs
        return outputs

    def backward(self, order: ShardedBackward, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Add the gradients of all parts to those of the weights."""
        for weight, key in zip(self._weights, order.before, strict=True):
            weight.grad = None if key is None else self._held[key]
        outputs = self._graphs[order.forward] if order.keep else self._graphs.pop(order.forward)
        run_backward(outputs, gradients, keep=order.keep)
        new = [
            weight.grad if key is None else None
            for weight, key in zip(self._weights, order.before, strict=True)
        ]
        self._held.note(new, order.number)
        return []


def run_backward(outputs: Sequence[Tensor], gradients: Sequence[Tensor], *, keep: bool) -> None:
    """Run backward from those outputs that take a gradient."""
    some, grads = zip(*learning(outputs, gradients), strict=True)
    torch.autograd.backward(some, grads, retain_graph=keep)
