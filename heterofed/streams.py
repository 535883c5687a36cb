"""Random streams: each entry into user code draws numbers of its own, whatever happens in between.

Knows torch; no sockets.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from heterofed.alignment import stream_seed

T = TypeVar("T")

_MT19937_BYTES = 5056
"""Of a state as torch lays it out: the seed and counters in 24, then 624 words of 8 each."""

_SEEDED = torch.Generator().manual_seed(0).get_state()

_GENERATORS = threading.RLock()
"""Held while a stream runs: parties that share a process share its global generators too."""


@contextmanager
def random_stream(seed: int, *path: str | int) -> Iterator[None]:
    """Run a block on the random numbers of one stream of the task, and restore what was before.

    Every entry into user code runs under a stream named (feature key, hook, round, batch), so a
    split run draws the same dropout masks as a joined model that uses the same streams, whatever
    happens in between and in whichever process. Covers the global generators of torch (CPU and
    CUDA), NumPy and Python.

    Args:
        seed: the plan's seed.
        path: names of the stream.
    """
    start = stream_seed(seed, *path)
    with _GENERATORS:
        yield from _seeded(start)


class _Depth(threading.local):
    """How many streams this thread is in, and whether `generators_kept` is around them."""

    streams = 0
    kept = False


_depth = _Depth()


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the generators at the end of the block, so that not each stream in it has to: that
    takes longer than everything else that heterofed does for a batch.
    """
    with _GENERATORS:
        before = RandomState.now()
    _depth.kept = True
    try:
        yield
    finally:
        _depth.kept = False
        with _GENERATORS:
            before.restore()


def _seeded(start: int) -> Iterator[None]:
    before = None if _depth.kept and _depth.streams == 0 else RandomState.now()
    _depth.streams += 1
    try:
        # Not torch.manual_seed: before CUDA is initialised it queues a call for later, each time.
        torch.default_generator.set_state(_whole_state(start))
        if _cuda_devices():
            torch.cuda.manual_seed_all(start)
        random.seed(start)
        np.random.seed([start & 0xFFFF_FFFF, start >> 32])
        yield
    finally:
        _depth.streams -= 1
        if before is not None:
            before.restore()


def _whole_state(start: int) -> Tensor:
    """The state of torch's CPU generator for a seed, all of whose bits count.

    Its own `manual_seed` takes the lower 32 alone, few enough to try all: then features would tell
    the initial weights, and those the raw rows.
    """
    if _SEEDED.numel() != _MT19937_BYTES:  # another torch than we know: better few bits than none
        return torch.Generator().manual_seed(start).get_state()
    state = _SEEDED.clone()
    raw = state.numpy()
    raw[:8].view(np.uint64)[0] = start
    words = np.frombuffer(hashlib.shake_256(start.to_bytes(8, "big")).digest(4 * 624), "<u4")
    raw[24 : 24 + 8 * 624].view(np.uint64)[:] = words
    return state


@dataclass(frozen=True, slots=True)
class RandomState:
    """Where this process's global generators stand: torch (CPU and CUDA), NumPy, Python."""

    torch_cpu: Tensor
    torch_cuda: tuple[Tensor, ...]
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> RandomState:
        """As they stand."""
        cuda = tuple(torch.cuda.get_rng_state(device) for device in _cuda_devices())
        return cls(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())

    def restore(self) -> None:
        """Put them back; devices that have come into use since stay as they are."""
        torch.set_rng_state(self.torch_cpu)
        for device, state in enumerate(self.torch_cuda):
            torch.cuda.set_rng_state(state, device)
        np.random.set_state(self.numpy)
        random.setstate(self.python)


def _cuda_devices() -> list[int]:
    # Before CUDA is initialised there is no state to keep, and asking would initialise it.
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    return list(range(torch.cuda.device_count()))


def streamed(
    items: Iterable[T], seed: int, *path: str | int, grad: bool = True, first: int = 0
) -> Generator[T, None, None]:
    """Iterate user code, each step under the stream (path, batch number), from batch `first` on."""
    iterator = iter(items)
    batch = first
    while True:
        with random_stream(seed, *path, batch), torch.set_grad_enabled(grad):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
        del item  # before the next one is made
        batch += 1
