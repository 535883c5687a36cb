"""Lets all ranks do what rank 0 does with sharded tensors.

Rank 0 alone runs hooks, and there a weight, its gradient or the state of an optimizer is a
`DTensor` of which it has one part. Each operation on one is an order to the other ranks, which do
the same with their parts, so a step of any optimizer, clipping or a moving average is one of the
whole weights. This knows of operations, and not of models or optimizers.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.utils import _pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode

from heterofed.compute.sharded_tensors import here
from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.fsdp import parts_of
from heterofed.compute.workers.held import (
    Collect,
    FailedToo,
    Held,
    Key,
    Operation,
    Orders,
    OwnDevice,
    Place,
    Plain,
    Release,
)
from heterofed.errors import ConfigError, RankLostError

MOST_WAITING = 64
"""The most orders that wait to be sent together."""

LOCAL = {"aten.detach.default", "aten.zeros_like.default", "aten.zero_.default"}
"""Operations that each rank does alone, beside those of single numbers."""


class Mirror(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The sharded tensors of rank 0, in the thread that enters it.

    Args:
        exchange: the connections to the other ranks.
    """

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._exchange = exchange
        self._numbers = 0
        self._keys: dict[int, Key] = {}
        self._released: list[Key] = []
        self._waiting: list[tuple[object, list[Tensor]]] = []
        self._computes = False

    def __enter__(self) -> Mirror:
        self._outer, here.shards = here.shards, self
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        here.shards = self._outer
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._computes:
            return func(*args, **kwargs)
        if func.namespace == "_c10d_functional":
            raise ConfigError(
                "shard_feature_model: a hook collects a weight of the feature model by itself; use"
                " its state_dict(), which is whole"
            )
        if not any(issubclass(each, DTensor) for each in types):
            return func(*args, **kwargs)
        return self._mirrored(func, args, kwargs)

    # -- what the model does, at all ranks by itself ---------------------------------------

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Leave what happens within the block to the ranks themselves: they compute the model."""
        outer, self._computes = self._computes, True
        try:
            yield
        finally:
            self._computes = outer

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Enclose a collective operation of the model.

        Raises:
            ConfigError: the other ranks do not compute the model now.
            RankLostError: another rank was lost.
        """
        if not self._computes:
            raise ConfigError(
                "shard_feature_model: a hook calls a part of the feature model; call the model"
                " itself, and let its forward call the part"
            )
        with self._exchange.together():
            yield

    def number(self) -> int:
        """Return a new number for tensors that all ranks are going to have."""
        self._numbers += 1
        return self._numbers

    def note(self, tensors: Sequence[Tensor | None], number: int) -> None:
        """Note tensors that the other ranks note alike under a number."""
        for place, each in enumerate(tensors):
            if not isinstance(each, DTensor):
                continue
            if id(each) in self._keys:  # as the result of an operation in place
                self._released.append((number, place))
            else:
                self._keys[id(each)] = number, place
                weakref.finalize(each, self._release, id(each), (number, place)).atexit = False

    def keys(self, tensors: Sequence[Tensor | None]) -> list[Key | None]:
        """Return by which keys the other ranks have noted tensors."""
        return [None if each is None else self._key(each) for each in tensors]

    def flush(self) -> None:
        """Send all orders that wait, before the other ranks get another one."""
        waiting, self._waiting[:] = list(self._waiting), []
        if self._released:
            released, self._released[:] = list(self._released), []
            waiting.append((Release(released), []))
        if not waiting:
            return
        orders = Orders([(order, len(tensors)) for order, tensors in waiting])
        beside = [each for _, tensors in waiting for each in tensors]
        for rank in range(1, self._exchange.ranks):
            self._exchange.send(rank, orders, beside)

    # -- conversions -----------------------------------------------------------------------

    def whole(self, tensor: Any) -> Tensor:
        """Return the whole of a sharded tensor, in main memory."""
        (placement,) = tensor.placements
        self._tell(Collect(self._key(tensor)))
        if not isinstance(placement, Shard):
            with self.computing(), self._exchange.together():
                added: Tensor = tensor.detach().full_tensor().cpu()
            return added
        parts = [tensor.to_local().detach().cpu()]
        parts += [self._exchange.answer(rank)[0] for rank in range(1, self._exchange.ranks)]
        return torch.cat(parts, placement.dim)

    def placed(self, tensor: Tensor, like: Any) -> Tensor:
        """Return a whole tensor divided as a sharded one of the same shape is."""
        (placement,) = like.placements
        number = self.number()
        ranks = self._exchange.ranks
        self.flush()
        sharded = isinstance(placement, Shard) and tensor.shape == like.shape
        parts = parts_of(tensor, ranks, placement.dim) if sharded else [tensor.detach()] * ranks
        order = Place(number, self._key(like), tuple(tensor.shape), tensor.stride(), sharded)
        for rank in range(1, ranks):
            self._exchange.send(rank, order, [parts[rank]])
        made: Tensor = order.made(like, parts[0])
        self.note([made], number)
        return made

    # -- operations ------------------------------------------------------------------------

    def _mirrored(self, func: Any, args: Any, kwargs: Any) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise ConfigError(
                "shard_feature_model: a hook draws random numbers for the weights of the feature"
                " model, which several processes have; make them in make_feature_model"
            )
        _check_written(func, args)
        args, kwargs = self._all_placed(args, kwargs)
        number, plain = self.number(), list[Tensor]()
        order = Operation(number, str(func), *self._described(args, kwargs, plain))
        self._tell(order, plain, waits=_is_local(func, args, self._exchange.ranks))
        try:
            with self._exchange.together(only_links=True):
                result = func(*args, **kwargs)
        except RankLostError:
            raise
        except Exception:
            self._tell(FailedToo(number))
            raise
        self.note(trees.tree_leaves(result), number)
        return result

    def _all_placed(self, args: Any, kwargs: Any) -> Any:
        """Divide whole tensors that stand beside sharded ones of the same shape, as in `copy_`."""
        found = [each for each in trees.tree_leaves((args, kwargs)) if isinstance(each, DTensor)]
        like = {each.shape: each for each in found}

        def place(each: Tensor) -> Tensor:
            fits = each.dim() and not isinstance(each, DTensor) and each.shape in like
            return self.placed(each, like[each.shape]) if fits else each

        return trees.tree_map_only(Tensor, place, (args, kwargs))

    def _described(self, args: Any, kwargs: Any, plain: list[Tensor]) -> Any:
        def describe(each: Any) -> Any:
            if isinstance(each, DTensor):
                return Held(self._key(each))
            if isinstance(each, Tensor):
                plain.append(each.detach().clone())  # it may change before it is sent
                return Plain(len(plain) - 1)
            return OwnDevice() if isinstance(each, torch.device) else each

        return trees.tree_map(describe, (args, kwargs))

    def _tell(self, order: object, tensors: Sequence[Tensor] = (), *, waits: bool = False) -> None:
        """Send an order to all ranks, now or with one of the next ones."""
        self._waiting.append((order, list(tensors)))
        if not waits or len(self._waiting) >= MOST_WAITING:
            self.flush()

    def _key(self, tensor: Any) -> Key:
        if id(tensor) not in self._keys:
            raise ConfigError(
                "shard_feature_model: a hook uses a tensor that the other processes do not have;"
                " make it by operations on the weights of the feature model"
            )
        return self._keys[id(tensor)]

    def _release(self, identity: int, key: Key) -> None:
        self._keys.pop(identity, None)
        self._released.append(key)


def mirror_here() -> Mirror:
    """Return the sharded tensors of this thread's launch."""
    if not isinstance(here.shards, Mirror):
        raise TypeError("no launch with sharded tensors runs in this thread")
    return here.shards


def _check_written(func: Any, args: Any) -> None:
    """Refuse an operation that would change a whole tensor by sharded ones."""
    for argument, value in zip(func._schema.arguments, args, strict=False):
        written = argument.alias_info is not None and argument.alias_info.is_write
        for each in trees.tree_leaves(value) if written else ():
            if isinstance(each, Tensor) and each.dim() and not isinstance(each, DTensor):
                raise ConfigError(
                    "shard_feature_model: a hook changes a whole tensor in place by weights of the"
                    " feature model, of which this process has a part; make the tensor from the"
                    " weights, for example by torch.zeros_like"
                )


def _is_local(func: Any, args: Any, ranks: int) -> bool:
    """Return whether each rank does an operation on its parts without the others, for certain."""
    if torch.Tag.pointwise not in func.tags and str(func) not in LOCAL:
        return False
    found = [each for each in trees.tree_leaves(args) if isinstance(each, DTensor)]
    forms = {(each.shape, each.placements) for each in found}
    if len(forms) != 1:
        return False
    ((shape, (placement,)),) = forms
    # A tensor with too few rows for all ranks may be divided anew.
    divided = isinstance(placement, Shard) and shape[placement.dim] >= ranks
    return divided or isinstance(placement, Replicate)
