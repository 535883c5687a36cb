"""Runs the passes of a model whose weights are divided among the ranks: all ranks at once.

Rank 0 computes its part of the rows like the other ranks, in a graph of its own. The features that
a hook gets are the joined parts; their gradients are divided again, and each rank runs backward
through its own graph. So all ranks gather the blocks of the model in the same order.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from heterofed.compute.sharded_tensors import whole
from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.fsdp import (
    check_shardable,
    meshed,
    parts_of,
    shard,
    without_weights,
)
from heterofed.compute.workers.mirror import Mirror, mirror_here
from heterofed.compute.workers.rows import check_rows, filled, split_rows, tensors_of
from heterofed.compute.workers.shard_worker import (
    ShardedBackward,
    ShardedModel,
    run_backward,
)
from heterofed.compute.workers.sharded import ReplacedForward, Returned
from heterofed.errors import ConfigError

CHANGED = (
    "one of the variables needed for gradient computation has been modified by an inplace"
    " operation: a weight of the feature model has changed since its forward pass"
)
TWICE = (
    "Trying to backward through the graph a second time: the feature model has freed it; give"
    " retain_graph=True"
)


class LockstepForward(ReplacedForward):
    """Divides the weights of a model, and lets all ranks compute with them at the same time.

    Args:
        model: the model with all of its weights.
        exchange: the connections to the other ranks.
    """

    def __init__(self, model: nn.Module, exchange: Exchange) -> None:
        super().__init__(model, exchange)
        self._mirror = mirror_here()
        self._known: list[tuple[int, int]] | None = None
        self._released: list[int] = []
        check_shardable(model)
        self._root = self._divided()

    def __reduce__(self) -> Any:
        raise ConfigError(
            "shard_feature_model: this process has only a part of the feature model, which cannot"
            " be copied; use its state_dict(), which is whole"
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the model returns."""
        given = args, kwargs
        tensors = tensors_of(given)
        if torch.is_grad_enabled() and any(each.requires_grad for each in tensors):
            raise ConfigError(
                "shard_feature_model: the feature model got a tensor that takes a gradient, and"
                " other processes compute parts of it; give the model tensors without a gradient"
            )
        self._check()
        self._number += 1
        parts = split_rows(tensors, self._exchange.ranks)
        self._order(given, parts)
        with self._mirror.computing():
            args, kwargs = filled(given, parts[0])
            own = self._root(*args, **kwargs)
        outputs = tensors_of(own)
        answers = [self._exchange.answer(rank) for rank in range(1, self._exchange.ranks)]
        if len(parts) > 1:
            check_rows(outputs, len(parts[0][0]))
            came = [*zip(*answers[: len(parts) - 1], strict=True)]
            joined = [
                torch.cat([each.detach(), *(one.to(each.device) for one in rest)])
                for each, rest in zip(outputs, came, strict=True)
            ]
        else:
            joined = [each.detach() for each in outputs]
        if torch.is_grad_enabled() and any(each.requires_grad for each in outputs):
            rows = [len(each[0]) for each in parts] if len(parts) > 1 else None
            call = _Call(self._exchange, self._mirror, self._model, self._number, outputs, rows)
            weakref.finalize(call, self._released.append, self._number).atexit = False
            joined = list(Returned.apply(call, torch.zeros((), requires_grad=True), *joined))
        elif torch.is_grad_enabled():
            self._released.append(self._number)
        return filled(own, joined)

    def _divided(self) -> nn.Module:
        """Give all ranks their parts of the weights, and return what computes the model."""
        exchange, model = self._exchange, self._model
        kind = next((each.device.type for each in model.parameters()), "cpu")
        with without_weights(model):
            pickled = self._pickled()
        number, limit = self._mirror.number(), exchange.limit()
        self._mirror.flush()
        versions = tuple(each._version for each in model.parameters())
        for rank in range(1, exchange.ranks):
            parts = [parts_of(each, exchange.ranks)[rank] for each in model.parameters()]
            exchange.send(rank, ShardedModel(pickled, number, kind, limit), parts)
            exchange.close()  # so that no more than one part is held twice
        with self._mirror.computing():
            root = shard(model, meshed(kind, exchange.ranks, limit), self._mirror.gathering)
        weights = tuple(model.parameters())
        torch._C._autograd._unsafe_set_version_counter(weights, versions)
        self._mirror.note(weights, number)
        return root

    def _order(self, given: Any, parts: list[list[Tensor]]) -> None:
        """Tell the other ranks to compute their parts.

        A rank for which there are no rows computes the first part too, and it does not count.
        """
        buffers = list(self._model.buffers())
        marks = [(id(each), each._version) for each in buffers]
        changed, self._known = marks != self._known, marks
        released, self._released[:] = list(self._released), []
        self._mirror.flush()
        for rank in range(1, self._exchange.ranks):
            part = parts[rank] if rank < len(parts) else parts[0]
            order = self._forward(rank, given, part, weights=changed, released=list(released))
            self._exchange.send(rank, order, [*part, *(buffers if changed else ())])


class _Call:
    """One forward pass of all ranks.

    Args:
        exchange: the connections to the other ranks.
        mirror: the sharded tensors of rank 0.
        model: the model.
        number: the number of the pass.
        outputs: what the model returned at rank 0, with its graph.
        rows: the numbers of rows of the parts; None if there is one part.
    """

    def __init__(
        self,
        exchange: Exchange,
        mirror: Mirror,
        model: nn.Module,
        number: int,
        outputs: Sequence[Tensor],
        rows: list[int] | None,
    ) -> None:
        self._exchange, self._mirror, self._number = exchange, mirror, number
        self._weights = list(model.parameters())
        self._versions = [each._version for each in self._weights]
        self._outputs: Sequence[Tensor] | None = outputs
        self._rows = rows

    def backward(self, gradients: Sequence[Tensor]) -> None:
        """Run backward at all ranks.

        Args:
            gradients: the gradients of the joined outputs.
        """
        outputs = self._outputs
        if outputs is None:
            raise RuntimeError(TWICE)
        if [each._version for each in self._weights] != self._versions:
            raise RuntimeError(CHANGED)
        keep = bool(torch._C._autograd._get_current_graph_task_keep_graph())
        # They are sharded if the loss has a term of the weights.
        parts = self._divided([whole(each).to(each.device) for each in gradients])
        number = self._mirror.number()
        before = self._mirror.keys([each.grad for each in self._weights])
        self._mirror.flush()
        order = ShardedBackward(self._number, before, number, keep)
        for rank in range(1, self._exchange.ranks):
            self._exchange.send(rank, order, parts[rank])
        with self._mirror.computing():
            run_backward(outputs, parts[0], keep=keep)
        if not keep:
            self._outputs = None
        self._mirror.note([each.grad for each in self._weights], number)
        for rank in range(1, self._exchange.ranks):
            self._exchange.answer(rank)

    def _divided(self, gradients: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return the gradients for each rank; those of a rank whose part does not count are 0."""
        if self._rows is None:
            parts = [list(gradients)]
        else:
            cut = [torch.split(each, self._rows) for each in gradients]
            parts = [list(each) for each in zip(*cut, strict=True)]
        nothing = [torch.zeros_like(each) for each in parts[0]]
        return parts + [nothing] * (self._exchange.ranks - len(parts))
