"""The global random generators of this process: torch (CPU and CUDA), NumPy, Python. Knows torch.

torch and NumPy would take 32 bits of a seed where it is a number, few enough to try all: then
features would tell the initial weights, and those the raw rows. So they get whole states.
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
"""Of a state of the Mersenne Twister, 4 bytes each."""

_MORE = 24
"""Bytes more of the seed that Python's generator takes."""

SEED_BYTES = 8 + 2 * 4 * _WORDS + _MORE
"""That `start_generators` needs."""

_STATE = torch.Generator().manual_seed(0).get_state()
"""Where torch's state is made, which it copies: seed and counters, 24 bytes, then 8 for a word."""

_KNOWN = _STATE.numel() == 5056


def start_generators(seed: bytes) -> None:
    """Start all of them.

    Args:
        seed: `SEED_BYTES`, any of which makes other numbers: 8 for the generators of CUDA devices,
            which take no more, and of Python; the words of torch's and of NumPy's; more for Python.
    """
    start = int.from_bytes(seed[:8], "big") >> 1
    words = np.frombuffer(seed, "<u4", 2 * _WORDS, offset=8)
    if _KNOWN:
        state = _STATE.numpy().view(np.uint64)
        state[0] = start
        state[3 : 3 + _WORDS] = words[:_WORDS]
        torch.default_generator.set_state(_STATE)
    else:  # another torch than we know: better few bits than none
        torch.default_generator.manual_seed(start)
    # Not torch.manual_seed: before CUDA is initialised it queues a call for later, each time.
    if _cuda_devices():
        torch.cuda.manual_seed_all(start)
    random.seed(int.from_bytes(seed[:8] + seed[-_MORE:], "big"))
    _start_numpy(words[_WORDS:])


def _start_numpy(words: np.ndarray[Any, np.dtype[np.uint32]]) -> None:
    if _NUMPY_WORDS is not None and get_bit_generator() is _NUMPY:
        np.random.seed(0)  # forgets the other half of a pair of normal numbers
        _NUMPY_WORDS[:] = words
    else:
        np.random.set_state(("MT19937", words, _WORDS, 0, 0.0))


def _words_in_place() -> np.ndarray[Any, np.dtype[np.uint32]] | None:
    """The words of NumPy's generator where they lie: NumPy's own ways there take ten times as long,
    more than all else here. None where they lie elsewhere than we know.
    """
    if not isinstance(_NUMPY, np.random.MT19937):
        return None
    address: int = _NUMPY.ctypes.state_address
    words = np.ctypeslib.as_array((ctypes.c_uint32 * _WORDS).from_address(address))
    state: Any = _NUMPY.state
    return words if np.array_equal(words, state["state"]["key"]) else None


_NUMPY = get_bit_generator()  # held, so that its memory stays
_NUMPY_WORDS = _words_in_place()


@dataclass(frozen=True, slots=True)
class RandomState:
    """Where the generators stand."""

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
