"""Stashes weights for steps with staleness.

With staleness k, a Collaborator's forward pass of batch b uses its weights after step b-1-k, so
that k batches are in flight meanwhile. The backward pass of a batch must see the weights of its own
forward pass, which optimizers have changed in place by then. So the weights that a forward pass
saves are copied. (`torch.autograd.graph.allow_mutation_on_saved_tensors` does the same for any
tensor, but has to inspect every operation: MNIST steps took 35 % longer with it, and 3 % longer
with this module.)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def stashed_weights(weights: Iterable[Tensor]) -> AbstractContextManager[object]:
    """Keep forward passes within the block valid for backward, even if `weights` change afterwards.

    Saved weights and views of them are copied; a weight that several operations save is copied
    once. Memory that torch did not allocate is copied too, because NumPy can write the next batch
    into it without torch noticing. Any other saved tensor that is changed in place causes torch's
    usual error in the backward pass.

    Args:
        weights: the parameters that an optimizer may change.
    """
    storages = {each.untyped_storage().data_ptr() for each in weights}
    copies: dict[tuple[object, ...], Tensor] = {}

    def pack(saved: Tensor) -> tuple[Tensor, int]:
        if saved.layout is not torch.strided:
            return saved, saved._version
        storage = saved.untyped_storage()
        start = storage.data_ptr()
        if not storage.resizable():
            saved = saved.clone()
        elif start in storages:
            form = (start, saved.storage_offset(), saved.shape, saved.stride(), saved.dtype)
            if form not in copies:
                copies[form] = saved.clone()
            saved = copies[form]
        # The tensor itself must not be saved: an operation that saves its own output would keep
        # itself alive.
        return saved.detach(), saved._version

    return torch.autograd.graph.saved_tensors_hooks(pack, _unpack)


def _unpack(packed: tuple[Tensor, int]) -> Tensor:
    saved, version = packed
    if saved._version != version:
        # With these hooks, torch does not make its own check.
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace"
            f" operation: a tensor of shape {list(saved.shape)} is at version {saved._version},"
            f" expected version {version}. With max_staleness a batch is used for longer, so give"
            " each batch its own memory"
        )
    return saved


def ahead(
    items: Iterable[T], weights: Callable[[], Iterable[Tensor]], in_flight: Callable[[], bool]
) -> Generator[T, None, None]:
    """Iterate user code whose forward passes may be followed by steps before their backward passes.

    Args:
        items: the items that a feature hook yields, each with its graph.
        weights: the weights that steps change.
        in_flight: whether a step, or another item, may come before the next item's backward pass.
    """
    iterator = iter(items)
    while True:
        with stashed_weights(weights()) if in_flight() else nullcontext():
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
        del item  # frees it before the next one is made
