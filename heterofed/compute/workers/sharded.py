"""Runs the forward and backward passes of a model at rank 0 and, for parts of the rows, elsewhere.

The graph at rank 0 has two nodes of its own for the other ranks. One was made last, so autograd
runs it first: it sends them the gradients of their rows. One was made first, so autograd runs it
last: it waits for their gradients of the weights. In between, rank 0 computes its own part. So
gradients reach `.grad` as in one process, and clipping, scalers, accumulation and staleness need
nothing else.
"""

from __future__ import annotations

import hashlib
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from heterofed.compute.autograd import has_batch_norm
from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.rows import check_rows, emptied, filled, split_rows, tensors_of
from heterofed.compute.workers.worker import Backward, Forward, Model
from heterofed.errors import ConfigError


class ReplacedForward:
    """Replaces the method `forward` of a model at rank 0, so that all ranks compute.

    Args:
        model: the model, whose class is importable at the other ranks.
        exchange: the connections to the other ranks.
    """

    def __init__(self, model: nn.Module, exchange: Exchange) -> None:
        self._model, self._plain, self._exchange = model, model.forward, exchange
        self._number = 0

    def _check(self) -> None:
        if self._model.training and has_batch_norm(self._model):
            raise ConfigError(
                "the feature model runs in several processes, and mixes the rows of a batch by"
                " BatchNorm: use GroupNorm or LayerNorm, or start one process"
            )

    def _pickled(self) -> bytes:
        try:
            return self._exchange.pickled(self._model)
        except Exception as error:
            raise ConfigError(
                "the feature model runs in several processes, and cannot be pickled for them:"
                " define its class and its functions at the top of a module"
            ) from error

    def _forward(
        self, rank: int, given: Any, part: Sequence[Tensor], *, weights: bool, released: list[int]
    ) -> Forward:
        """Return the order to compute a part of the rows."""
        told, released[:] = list(released), []
        return Forward(
            self._number,
            emptied(given),
            len(part),
            weights=weights,
            modes=[each.training for each in self._model.modules()],
            grad=torch.is_grad_enabled(),
            takers=[each.requires_grad and torch.is_grad_enabled() for each in part],
            seed=self._seed(rank),
            autocast=_autocast(part),
            released=told,
        )

    def _seed(self, rank: int) -> int:
        """Return a seed for random numbers of another rank, without drawing one here."""
        state = torch.get_rng_state().numpy().tobytes()
        number = f"{rank} {self._number}".encode()
        return int.from_bytes(hashlib.sha256(state + number).digest()[:7], "big")


class ShardedForward(ReplacedForward):
    """Lets all ranks compute with copies of the weights of rank 0.

    Copies and pickles of the model compute by themselves.
    """

    def __init__(self, model: nn.Module, exchange: Exchange) -> None:
        super().__init__(model, exchange)
        # By rank: the passes whose graphs are not needed any more, and the weights that it has.
        self._released: dict[int, list[int]] = {rank: [] for rank in range(exchange.ranks)}
        self._known: dict[int, list[tuple[int, int]]] = {}

    def __reduce__(self) -> Any:
        return getattr, (self._model, "forward")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._model))
        if copied is None:
            return self
        return types.MethodType(type(self._model).forward, copied)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the model returns."""
        tensors = tensors_of((args, kwargs))
        parts = split_rows(tensors, self._exchange.ranks)
        if len(parts) == 1 or self._is_lazy():
            return self._plain(*args, **kwargs)
        return self._sharded((args, kwargs), parts)

    def _is_lazy(self) -> bool:
        return any(nn.parameter.is_lazy(each) for each in self._model.parameters())

    def _sharded(self, given: Any, parts: list[list[Tensor]]) -> Any:
        self._check()
        self._number += 1
        others = range(1, len(parts))
        call = _Call(self._exchange, self._model, self._number, parts)
        for rank in others:
            weakref.finalize(call, self._released[rank].append, self._number)
            self._order(rank, given, parts[rank])
        takers = call.takers() if torch.is_grad_enabled() else []
        token = _Collect.apply(call, *takers) if takers else None
        args, kwargs = filled(given, parts[0])
        own = self._plain(*args, **kwargs)
        outputs = tensors_of(own)
        check_rows(outputs, len(parts[0][0]))
        answers = [self._exchange.answer(rank) for rank in others]
        came = [each.to(outputs[0].device) for answer in answers for each in answer]
        if token is not None:
            came = list(Returned.apply(call, token, *came))
        count = len(outputs)
        joined = [torch.cat([each, *came[place::count]]) for place, each in enumerate(outputs)]
        return filled(own, joined)

    def _order(self, rank: int, given: Any, part: list[Tensor]) -> None:
        """Tell a rank to compute its part, with the weights if they may have changed."""
        marks = [(id(each), each._version) for each in self._state()]
        known, self._known[rank] = self._known.get(rank), marks
        if known is None:
            self._exchange.send(rank, Model(self._pickled()))
        fresh = self._model.training or marks != known
        released = self._released[rank]
        order = self._forward(rank, given, part, weights=fresh, released=released)
        self._exchange.send(rank, order, [*part, *(self._state() if fresh else ())])

    def _state(self) -> list[Tensor]:
        return [*self._model.parameters(), *self._model.buffers()]


def spread(
    model: nn.Module,
    exchange: Exchange,
    replaced: Callable[[nn.Module, Exchange], ReplacedForward] = ShardedForward,
) -> None:
    """Let all ranks compute what a model at rank 0 returns.

    Args:
        model: the model.
        exchange: the connections to the other ranks.
        replaced: makes what replaces the method `forward` of the model.

    Raises:
        ConfigError: the method `forward` was replaced on the object, which other ranks lack.
    """
    if "forward" in vars(model):
        raise ConfigError(
            "the feature model runs in several processes, and its forward was replaced on the"
            " object: define it in the class of the model"
        )
    model.forward = replaced(model, exchange)  # type: ignore[assignment]


def _autocast(part: Sequence[Tensor]) -> tuple[str, torch.dtype] | None:
    kind = part[0].device.type if part else "cpu"
    if not torch.is_autocast_enabled(kind):
        return None
    return kind, torch.get_autocast_dtype(kind)


class _Call:
    """One forward pass that other ranks take part in.

    Args:
        exchange: the connections to the other ranks.
        model: the model.
        number: the number of the pass.
        parts: the tensors of the arguments at each rank that takes part.
    """

    def __init__(
        self, exchange: Exchange, model: nn.Module, number: int, parts: Sequence[Sequence[Tensor]]
    ) -> None:
        self._exchange, self._number, self._others = exchange, number, range(1, len(parts))
        self._weights = [each for each in model.parameters() if each.requires_grad]
        self._inputs = [[each for each in part if each.requires_grad] for part in parts[1:]]

    def takers(self) -> list[Tensor]:
        """Return what takes a gradient at other ranks: the weights, and then what each got."""
        return self._weights + [each for part in self._inputs for each in part]

    def backward(self, gradients: Sequence[Tensor]) -> None:
        """Send each rank the gradients of what it returned."""
        count = len(gradients) // len(self._others)
        for place, rank in enumerate(self._others):
            part = gradients[place * count : (place + 1) * count]
            self._exchange.send(rank, Backward(self._number), part)

    def collect(self) -> list[Tensor | None]:
        """Return the gradients of `takers`, None if there is none; those of a weight are added."""
        sums: list[Tensor | None] = [None] * len(self._weights)
        further: list[Tensor | None] = []
        for rank, inputs in zip(self._others, self._inputs, strict=True):
            came = self._exchange.answer(rank)
            used, gradients = came[0].tolist(), iter(came[1:])
            found = [
                next(gradients).to(each.device) if is_used else None
                for each, is_used in zip([*self._weights, *inputs], used, strict=True)
            ]
            for place, gradient in enumerate(found[: len(sums)]):
                before = sums[place]
                if gradient is not None:
                    sums[place] = gradient if before is None else before + gradient
            further += found[len(sums) :]
        return sums + further


class _Collect(torch.autograd.Function):
    """Gives the weights, and what goes into the model, the gradients of the other ranks."""

    @staticmethod
    def forward(context: Any, call: _Call, *takers: Tensor) -> Tensor:
        context.call = call
        return takers[0].new_zeros(())

    @staticmethod
    def backward(context: Any, *_: Tensor) -> Any:
        return None, *context.call.collect()


class Passing(Protocol):
    """A forward pass whose backward pass other ranks take part in."""

    def backward(self, gradients: Sequence[Tensor]) -> None:
        """Take the gradients of what they returned."""


class Returned(torch.autograd.Function):
    """Hands the gradients of what other ranks returned to the pass that they took part in."""

    @staticmethod
    def forward(context: Any, call: Passing, token: Tensor, *outputs: Tensor) -> Any:
        context.call, context.token = call, token.detach()
        whole = [each.view_as(each) for each in outputs]
        context.mark_non_differentiable(*(e for e in whole if not e.is_floating_point()))
        return tuple(whole)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        context.call.backward(gradients)
        return None, torch.zeros_like(context.token), *[None] * len(gradients)
