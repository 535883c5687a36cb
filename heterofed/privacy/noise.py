"""Draws Gaussian noise that no other party can reproduce, and that never hides two different
values.

Noise protects only if nobody can subtract it. torch's generators are not suitable: the seed of the
CPU's generator has 32 bits, and a batch that is trained again after a rollback would get the same
numbers for other values. Here every draw has its own ChaCha20 key. The key is an HMAC-SHA256, keyed
with a secret of 32 bytes of this party, over the place of the draw (phase, peer, round, batch) and
over all values that the noise hides. A resumed run that computes the same values sends the same
bits again; if a value or a scale differs, the noise is different.

The low bits of floats can reveal noise, because the possible sums depend on the values that were
added (Mironov, CCS 2012; Haney et al. 2022). So all noise is float64, and each sum is rounded to a
grid that is coarse compared with the steps of the noise and fine compared with its scale. Every
point of the grid can then come from every value. Rounding is post-processing, so an epsilon of the
noise also holds for the rounded sum.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from torch import Tensor

SECRET_BYTES = 32
"""The length of the secret from which all noise of a run is derived, in bytes."""

GRID_BITS = 14
"""Releases are rounded to multiples of the largest power of two up to 2^-14 standard deviations.

The noise has 2^38 different numbers within each of these steps.
"""


class Noise:
    """The standard normal numbers of one place in a run.

    Args:
        secret: 32 secret bytes of this party.
        path: the place: phase, peer, round and batch.
    """

    def __init__(self, secret: bytes, *path: str | int | None) -> None:
        self._key = hmac.digest(secret, repr(path).encode(), sha256)
        self._draws = 0

    def normal(self, shape: Sequence[int], *hidden: Tensor | float) -> Tensor:
        """Return numbers for one use.

        Args:
            shape: the shape of the result.
            hidden: the values that the numbers hide, and the scales that they are multiplied by.

        Returns:
            A float64 tensor on the CPU, with different numbers for each call and for each `hidden`.
        """
        key = self._key_for(self._draws, hidden)
        self._draws += 1
        count = math.prod(shape)
        half = (count + 1) // 2
        stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(16 * half))
        return normal_from(np.frombuffer(stream, "<u8"))[:count].reshape(tuple(shape))

    def name_for(self, *hidden: Tensor | float) -> str:
        """Return the name of a random stream for hidden values, as unpredictable as the noise."""
        return self._key_for(-1, hidden).hex()

    def _key_for(self, draw: int, hidden: Sequence[Tensor | float]) -> bytes:
        """Return the key of one draw, which depends on its number and on the hidden tensors."""
        mac = hmac.new(self._key, draw.to_bytes(8, "big", signed=True), sha256)
        for each in hidden:
            wide = each if isinstance(each, Tensor) else torch.tensor(each, dtype=torch.float64)
            tensor = wide.detach().cpu().contiguous()
            mac.update(repr((tensor.dtype, tuple(tensor.shape))).encode() + b"\0")
            mac.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return mac.digest()


def normal_from(words: np.ndarray[Any, np.dtype[np.uint64]]) -> Tensor:
    """Return one standard normal number per word, by the transform of Box and Muller (1958).

    Args:
        words: an even number of uniform 64-bit numbers. The largest possible result is 9.35, which
            a normal number exceeds with a probability of 10^-20.

    Returns:
        A float64 tensor on the CPU.
    """
    lengths, angles = words.reshape(2, -1)
    # These are in (0, 1] with 63 bits; the smallest one determines where the tail ends. The
    # conversion must avoid float32, which a tensor of integers times a number would become.
    uniform = torch.from_numpy(((lengths >> 1) + np.uint64(1)).astype(np.float64) * 2.0**-63)
    length = (-2 * uniform.log()).sqrt()
    angle = torch.from_numpy((angles >> 11).astype(np.float64) * (math.tau * 2.0**-53))
    return torch.cat([length * angle.cos(), length * angle.sin()])


_source: ContextVar[Noise | None] = ContextVar("heterofed_noise", default=None)
"""The source of noise of the code that runs; None means the operating system's randomness."""


@contextmanager
def drawn_from(noise: Noise) -> Iterator[None]:
    """Make `normal` draw from this noise within the block, on this thread."""
    before = _source.set(noise)
    try:
        yield
    finally:
        _source.reset(before)


def normal(like: Tensor, *hidden: Tensor | float) -> Tensor:
    """Return standard normal numbers for a defence.

    In a run they are unpredictable for peers; elsewhere torch's generator draws them.

    Args:
        like: a tensor of the shape and on the device of the result.
        hidden: the values that the numbers hide, and the scales that they are multiplied by.

    Returns:
        A float64 tensor, or float32 if the device does not support float64.
    """
    noise = _source.get()
    if noise is None:
        drawn = torch.randn(like.shape, dtype=torch.float64)
    else:
        drawn = noise.normal(like.shape, *hidden)
    return drawn.to(widest(like.device)).to(like.device)


def added(clean: Tensor, noise: Tensor, std: Tensor | float | None = None) -> Tensor:
    """Return the sum in the dtype of `clean`, rounded to a grid so that its low bits reveal
    nothing.

    Args:
        clean: the values to hide; gradients pass through to them.
        noise: the noise, of the same shape.
        std: the standard deviation of the noise, which determines the grid. With None, the root
            mean square of the noise is used.
    """
    if std is None:
        std = noise.detach().square().mean().sqrt() if noise.numel() else 0.0
    total = clean.to(noise.dtype) + noise
    step = grid(float(std))
    return (_Rounded.apply(total, step) if step else total).to(clean.dtype)


def grid(std: float) -> float:
    """Return the step to which a release with noise of this standard deviation is rounded.

    It is 0 if the release is not rounded.
    """
    if not math.isfinite(std) or std < 2.0**-1000:  # no noise, or less than float64 has steps for
        return 0.0
    return math.ldexp(1.0, math.frexp(std)[1] - 1 - GRID_BITS)


class _Rounded(torch.autograd.Function):
    """Rounds to multiples of a step; gradients pass unchanged."""

    @staticmethod
    def forward(_context: Any, values: Tensor, step: float) -> Tensor:
        """Return the values rounded to multiples of `step`."""
        return (values / step).round() * step

    @staticmethod
    def backward(_context: Any, *gradients: Any) -> tuple[Any, None]:
        """Return the gradients unchanged, as if nothing had been rounded."""
        return gradients[0], None


def wide(rows: Tensor) -> tuple[Tensor, float]:
    """Return the numbers divided by a power of two, and this power, so that squares stay in range.

    Gradients may be as small as 1e-30; their squares are 0 in float32, and the noise would be 0
    too.

    Returns:
        A float64 tensor, or float32 if the device does not support float64, whose finite numbers
        are at most 1; and the power of two.
    """
    largest = float(rows.detach().abs().amax()) if rows.numel() else 0.0
    scale = math.ldexp(1.0, math.frexp(largest)[1]) if 0 < largest < math.inf else 1.0
    return rows.to(widest(rows.device)) / scale, scale


def widest(device: torch.device) -> torch.dtype:
    """Return the widest float dtype of a device, in which noise is added."""
    return torch.float32 if device.type == "mps" else torch.float64
