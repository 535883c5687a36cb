"""Steps whose forward ran ahead: weights kept as they were, and how far ahead pays. Knows torch.

With staleness k a Collaborator's forward of batch b uses its weights after step b-1-k, so that k
batches are on their way while it goes on. Backward of a batch must see the weights of its own
forward, which optimizers have changed in place by then; so what a forward saves of them is copied.
(`torch.autograd.graph.allow_mutation_on_saved_tensors` does as much for any tensor, but looks at
every operation to do so: MNIST steps took 35 % longer with it, 3 % with this.)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

MOST_CHOSEN = 16
"""Largest staleness that is chosen unasked: further ones cost accuracy and seldom buy time."""

PROBE_BATCHES = 8
"""Batches of the first round that are trained exactly and timed before staleness is chosen."""

SLACK = 1.25
"""How much longer than measured a batch may take before somebody waits."""


def stashed_weights(weights: Iterable[Tensor]) -> AbstractContextManager[object]:
    """Let forwards within the block stay fit for backward whatever becomes of `weights` after.

    Saved weights, and views of them, are copied; one that several operations save is copied once.
    So is memory that torch did not allocate: NumPy writes the next batch into it without a trace.
    Any other saved tensor that is changed in place before backward is an error then, as ever.

    Args:
        weights: parameters that an optimizer may change.
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
        # Not the tensor itself: an operation that saves what it gives would keep itself alive.
        return saved.detach(), saved._version

    return torch.autograd.graph.saved_tensors_hooks(pack, _unpack)


def _unpack(packed: tuple[Tensor, int]) -> Tensor:
    saved, version = packed
    if saved._version != version:
        # Hooks switch torch's own check off.
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace"
            f" operation: a tensor of shape {list(saved.shape)} is at version {saved._version},"
            f" expected version {version}. With max_staleness a batch is in use until later: give"
            " each its own memory"
        )
    return saved


def ahead(
    items: Iterable[T], weights: Callable[[], Iterable[Tensor]], in_flight: Callable[[], bool]
) -> Generator[T, None, None]:
    """Iterate user code whose forwards may have to outlast steps.

    Args:
        items: what a feature hook gives, each with its graph.
        weights: what steps change.
        in_flight: whether a step, or another item, may come before the next item's backward.
    """
    iterator = iter(items)
    while True:
        with stashed_weights(weights()) if in_flight() else nullcontext():
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
        del item  # before the next one is made


class Probe:
    """Times the first batches, each trained exactly, and says how far ahead pays.

    Such a batch takes one whole cycle: forward there, the way here, the step here, the way back,
    backward and step there. With k more on their way one comes every 1/(k+1) of that, down to what
    the busiest party (or link) needs for one.
    """

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._cycles: list[float] = []
        self._work: list[float] = []

    def note(self, now: float, own: float, others: float) -> None:
        """A batch has come in full.

        Args:
            now: seconds on any clock.
            own: seconds that this party has worked so far.
            others: seconds that the busiest other party, or link, worked for this batch.
        """
        if self._last is not None:
            self._cycles.append(now - self._last[0])
            self._work.append(max(own - self._last[1], others))
        self._last = (now, own)

    def choose(self) -> int:
        """The least staleness with which nobody should wait, 0 to `MOST_CHOSEN`."""
        cycle, work = self._typical()
        return min(MOST_CHOSEN, max(0, math.ceil(SLACK * cycle / work) - 1)) if work > 0 else 0

    def __str__(self) -> str:
        cycle, work = self._typical()
        return f"{1e3 * cycle:.1f} ms each, {1e3 * work:.1f} ms of work at the busiest party"

    def _typical(self) -> tuple[float, float]:
        if not self._cycles:
            return 0.0, 0.0
        return statistics.median(self._cycles), statistics.median(self._work)
