"""Runs rank 1 and higher: it computes what rank 0 asks for, until rank 0 is done."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.rows import check_rows, filled, tensors_of
from heterofed.errors import RankLostError


@dataclass(frozen=True, slots=True)
class Model:
    """The order to take a model.

    Attributes:
        pickled: the model.
    """

    pickled: bytes

    def worker(self, tensors: Sequence[Tensor], exchange: Exchange) -> Ranked:
        """Return what computes the model at this rank.

        Args:
            tensors: those that came beside this.
            exchange: the connections to the other ranks.
        """
        del tensors, exchange
        return Worker(self)


@dataclass(frozen=True, slots=True)
class Forward:
    """The order to compute a part of the rows of a batch.

    Attributes:
        number: the number of the forward pass.
        given: the arguments, without their tensors, which come beside this.
        tensors: the number of tensors of the arguments; weights follow them.
        weights: whether weights and buffers follow.
        modes: the mode of each module.
        grad: whether a backward pass may follow.
        takers: for each tensor of the arguments, whether it takes a gradient.
        seed: the seed of the random generators.
        autocast: the kind of device and the dtype of automatic mixed precision, if it is on.
        released: the numbers of forward passes whose graphs are not needed any more.
    """

    number: int
    given: Any
    tensors: int
    weights: bool
    modes: list[bool]
    grad: bool
    takers: list[bool]
    seed: int
    autocast: tuple[str, torch.dtype] | None = None
    released: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Backward:
    """The order to run backward from the gradients of what a forward pass returned."""

    number: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The order to end.

    Attributes:
        result: what `launch_task` returned at rank 0; None if it failed.
    """

    result: Any


class Ranked(Protocol):
    """The part of a feature model that a rank other than rank 0 has."""

    stays: bool
    """Whether this rank can go on after an error. If not, it ends, since others wait for it."""

    def obey(self, order: Any, tensors: list[Tensor]) -> list[Tensor] | None:
        """Do what rank 0 asks for, and return what it waits for; None if it does not wait."""


class Worker:
    """The copy of a feature model at one rank.

    Each set of weights that arrives is a set of tensors of its own, so that graphs in flight keep
    those that they were computed with.

    Args:
        order: the order that brought the model.
    """

    stays = True

    def __init__(self, order: Model) -> None:
        # It is part of a message of this party's first process, whose tag was checked.
        self._model: nn.Module = pickle.loads(order.pickled)  # noqa: S301
        self._device = torch.device("cpu")
        some = next(self._model.parameters(), None)
        if some is not None and some.is_cuda:
            self._device = own_gpu()
            self._model.to(self._device)
        self._state: dict[str, Tensor] = {}
        self._weights: list[Tensor] = []
        self._graphs: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def obey(self, order: Any, tensors: list[Tensor]) -> list[Tensor]:
        """Run a forward or a backward pass."""
        if isinstance(order, Forward):
            return self.forward(order, tensors)
        return self.backward(order, tensors)

    def forward(self, order: Forward, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return what the model returns for a part of the rows."""
        for number in order.released:
            self._graphs.pop(number, None)
        tensors = [each.to(self._device) for each in tensors]
        if order.weights:
            self._take_weights(tensors[order.tensors :])
        inputs = [each for each, takes in zip(tensors, order.takers, strict=False) if takes]
        for each in inputs:
            each.requires_grad_()
        outputs = computed(
            order, self._model, tensors, partial(functional_call, self._model, self._state)
        )
        check_rows(outputs, len(tensors[0]))
        if order.grad:
            self._graphs[order.number] = outputs, [*self._weights, *inputs]
        return outputs

    def backward(self, order: Backward, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return which weights and inputs have a gradient, as bools, and the gradients of those."""
        outputs, takers = self._graphs[order.number]
        pairs = learning(outputs, gradients)
        found: Sequence[Tensor | None] = [None] * len(takers)
        if pairs:
            some, grads = zip(*pairs, strict=True)
            found = torch.autograd.grad(some, takers, grads, retain_graph=True, allow_unused=True)
        used = torch.tensor([each is not None for each in found], device="cpu")
        return [used, *(each for each in found if each is not None)]

    def _take_weights(self, tensors: Sequence[Tensor]) -> None:
        names = [name for name, _ in self._model.named_parameters()]
        count = len(names)
        for like, each in zip(self._model.parameters(), tensors, strict=False):
            each.requires_grad_(like.requires_grad)
        names += [name for name, _ in self._model.named_buffers()]
        self._state = dict(zip(names, tensors, strict=True))
        self._weights = [each for each in tensors[:count] if each.requires_grad]


def learning(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return those outputs that take a gradient, each with its gradient on its device."""
    return [
        (output, gradient.to(output.device))
        for output, gradient in zip(outputs, gradients, strict=True)
        if output.requires_grad
    ]


def own_gpu() -> torch.device:
    """Return the GPU of this rank."""
    place = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    return torch.device("cuda", place)


def computed(
    order: Forward,
    model: nn.Module,
    tensors: Sequence[Tensor],
    compute: Callable[[Any, Any], Any],
) -> list[Tensor]:
    """Return what a model returns, in the modes and with the seed that rank 0 says.

    Args:
        order: the order of rank 0.
        model: the model.
        tensors: those of the arguments, and possibly more.
        compute: computes the model from its positional and its named arguments.
    """
    for module, training in zip(model.modules(), order.modes, strict=True):
        module.training = training
    torch.manual_seed(order.seed)
    args, kwargs = filled(order.given, tensors[: order.tensors])
    kind, dtype = order.autocast or ("", None)
    with (
        torch.set_grad_enabled(order.grad),
        torch.autocast(kind, dtype=dtype) if kind else nullcontext(),
    ):
        return tensors_of(compute(args, kwargs))


def work(exchange: Exchange) -> Any:
    """Compute what rank 0 asks for until it is done, and return what `launch_task` returned there.

    Raises:
        RankLostError: rank 0 has ended, or its task has failed.
        Exception: this rank cannot go on, and the others find out.
    """
    worker: Ranked = Worker(Model(pickle.dumps(nn.Identity())))
    while True:
        order, tensors = exchange.receive(0, idle=True)
        match order:
            case Stop(result=None):
                raise RankLostError(f"the task has failed at rank 0; {RankLostError.remedy}")
            case Stop(result=result):
                return result
            case Model():
                worker = order.worker(tensors, exchange)
            case _:
                _answer(exchange, worker, order, tensors)


def _answer(exchange: Exchange, worker: Ranked, order: Any, tensors: list[Tensor]) -> None:
    """Obey an order, and send rank 0 what it waits for: an error in words, or tensors."""
    try:
        found = worker.obey(order, tensors)
    except RankLostError:
        return  # rank 0 finds out which rank it was, and ends this one
    except Exception as error:
        if not worker.stays:
            raise
        exchange.send(0, f"{type(error).__name__}: {error}")
    else:
        if found is not None:
            exchange.send(0, None, found)
