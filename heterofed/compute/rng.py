"""Seeds, saves and restores the global random generators of torch (CPU and CUDA), NumPy and Python.

If the seed were a number, torch and NumPy would use only 32 bits of it, which a peer could search
through. Features would then reveal the initial weights, and these the raw rows. So the generators
get whole states.
"""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator
from torch import Tensor

_WORDS = 624
"""The number of words, of 4 bytes each, of a state of the Mersenne Twister."""

_MORE = 24
"""The number of further bytes of the seed that Python's generator takes."""

SEED_BYTES = 8 + 2 * 4 * _WORDS + _MORE
"""The number of bytes that `start_generators` needs."""

_STATE = torch.Generator().manual_seed(0).get_state()
"""A buffer in which torch's state is made: 24 bytes for seed and counters, then 8 per word."""

_KNOWN = _STATE.numel() == 5056

_STATE_WORDS = _STATE.numpy().view(np.uint64) if _KNOWN else np.empty(0, np.uint64)
"""The same memory as `_STATE`."""


def start_generators(seed: bytes) -> None:
    """Seed all generators.

    Args:
        seed: `SEED_BYTES` bytes: 8 for the generators of CUDA devices, which take no more, and for
            Python's; the words of torch's and NumPy's generators; and further bytes for Python's.
    """
    start = int.from_bytes(seed[:8], "big") >> 1
    words = np.frombuffer(seed, "<u4", 2 * _WORDS, offset=8)
    if _KNOWN:
        _STATE_WORDS[0] = start
        _STATE_WORDS[3 : 3 + _WORDS] = words[:_WORDS]
        torch.default_generator.set_state(_STATE)
    else:  # an unknown version of torch, which is seeded with fewer bits
        torch.default_generator.manual_seed(start)
    # torch.manual_seed is avoided, because it queues a call each time before CUDA is initialised.
    if _cuda_devices():
        torch.cuda.manual_seed_all(start)
    random.seed(int.from_bytes(seed[:8] + seed[-_MORE:], "big"))
    _start_numpy(words[_WORDS:])


def _start_numpy(words: np.ndarray[Any, np.dtype[np.uint32]]) -> None:
    if _NUMPY_WORDS is not None and get_bit_generator() is _NUMPY:
        np.random.seed(0)  # also discards the second number of a pair of normal numbers
        _NUMPY_WORDS[:] = words
    else:
        np.random.set_state(("MT19937", words, _WORDS, 0, 0.0))


def _words_in_place() -> np.ndarray[Any, np.dtype[np.uint32]] | None:
    """Return the memory of the words of NumPy's generator, or None if its layout is unknown.

    NumPy's own functions take ten times as long, which is more than everything else here.
    """
    if not isinstance(_NUMPY, np.random.MT19937):
        return None
    address: int = _NUMPY.ctypes.state_address
    words = np.ctypeslib.as_array((ctypes.c_uint32 * _WORDS).from_address(address))
    state: Any = _NUMPY.state
    return words if np.array_equal(words, state["state"]["key"]) else None


_NUMPY = get_bit_generator()  # keeps its memory alive
_NUMPY_WORDS = _words_in_place()


@dataclass(frozen=True, slots=True)
class RandomState:
    """The states of all generators."""

    torch_cpu: Tensor
    torch_cuda: tuple[Tensor, ...]
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> RandomState:
        """Return the current states."""
        cuda = tuple(torch.cuda.get_rng_state(device) for device in _cuda_devices())
        return cls(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())

    def restore(self) -> None:
        """Restore the states. CUDA devices that came into use meanwhile are not changed."""
        torch.set_rng_state(self.torch_cpu)
        for device, state in enumerate(self.torch_cuda):
            torch.cuda.set_rng_state(state, device)
        np.random.set_state(self.numpy)
        random.setstate(self.python)


def _cuda_devices() -> list[int]:
    # Before CUDA is initialised there is no state, and a query would initialise it.
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    return list(range(torch.cuda.device_count()))
