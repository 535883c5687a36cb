"""Gaussian noise that nobody else can draw again, and that never hides two things.

Noise protects as long as nobody can subtract it. torch's generators do not serve: how the CPU's is
seeded has 32 bits, and a batch that is trained again after a rollback would get the same numbers
for other values. Here every draw has a ChaCha20 key of its own: HMAC-SHA256 by a secret of this
party, 32 bytes, over where the draw stands (phase, peer, round, batch) and over all that the noise
hides. A run that goes on and computes the same again sends the same again, bit for bit; where a
value or a scale differs, the noise is another one.

Floats give noise away by their low bits: which sums can come about hangs on what was added to what
(Mironov, CCS 2012; Haney et al. 2022). So all noise is float64, and each sum is rounded to a grid
that is coarse beside the noise's own steps and fine beside its scale: every point of it can come
from every value. Rounding is post-processing, so an epsilon of the noise holds for the sum.
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

GRID_BITS = 14
"""Releases are rounded to multiples of the power of two that is just below 2^-14 of the noise's
standard deviation, which has 2^38 numbers of its own in each step.
"""


class Noise:
    """Standard normal numbers of one place in a run.

    Args:
        secret: 32 bytes that stay at this party.
        path: names the place: phase, peer, round, batch.
    """

    def __init__(self, secret: bytes, *path: str | int | None) -> None:
        self._key = hmac.digest(secret, repr(path).encode(), sha256)
        self._draws = 0

    def normal(self, shape: Sequence[int], *hidden: Tensor | float) -> Tensor:
        """Numbers for one use.

        Args:
            shape: the shape of the result.
            hidden: the values that they are to hide, and the scales that they get.

        Returns:
            float64 on the CPU; others with each call, and for other `hidden`.
        """
        key = self._key_for(self._draws, hidden)
        self._draws += 1
        count = math.prod(shape)
        half = (count + 1) // 2
        stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(16 * half))
        return normal_from(np.frombuffer(stream, "<u8"))[:count].reshape(tuple(shape))

    def name_for(self, *hidden: Tensor | float) -> str:
        """Names a random stream for what is to be hidden, as unforeseeable as the noise."""
        return self._key_for(-1, hidden).hex()

    def _key_for(self, draw: int, hidden: Sequence[Tensor | float]) -> bytes:
        mac = hmac.new(self._key, draw.to_bytes(8, "big", signed=True), sha256)
        for each in hidden:
            wide = each if isinstance(each, Tensor) else torch.tensor(each, dtype=torch.float64)
            tensor = wide.detach().cpu().contiguous()
            mac.update(repr((tensor.dtype, tuple(tensor.shape))).encode() + b"\0")
            mac.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return mac.digest()


def normal_from(words: np.ndarray[Any, np.dtype[np.uint64]]) -> Tensor:
    """As many standard normal numbers, by the transform of Box and Muller (1958).

    Args:
        words: uniform 64-bit numbers, an even number of them. Any are good: the longest result is
            9.35, which a normal number is beyond once in 10^20.

    Returns:
        float64 on the CPU.
    """
    lengths, angles = words.reshape(2, -1)
    # In (0, 1], by 63 bits: the tail ends where the smallest is. No step through float32: a tensor
    # of integers times a number would be one.
    uniform = torch.from_numpy(((lengths >> 1) + np.uint64(1)).astype(np.float64) * 2.0**-63)
    length = (-2 * uniform.log()).sqrt()
    angle = torch.from_numpy((angles >> 11).astype(np.float64) * (math.tau * 2.0**-53))
    return torch.cat([length * angle.cos(), length * angle.sin()])


_source: ContextVar[Noise | None] = ContextVar("heterofed_noise", default=None)


@contextmanager
def drawn_from(noise: Noise) -> Iterator[None]:
    """Let `normal` draw from there within the block, on this thread."""
    before = _source.set(noise)
    try:
        yield
    finally:
        _source.reset(before)


def normal(like: Tensor, *hidden: Tensor | float) -> Tensor:
    """Standard normal numbers for a defence: unforeseeable in a run, else torch's own.

    Args:
        like: of whose shape and device they are.
        hidden: what they are to hide: the values that go out with them, and the scales.

    Returns:
        float64, or float32 where the device has no wider one.
    """
    noise = _source.get()
    if noise is None:
        drawn = torch.randn(like.shape, dtype=torch.float64)
    else:
        drawn = noise.normal(like.shape, *hidden)
    return drawn.to(widest(like.device)).to(like.device)


def added(clean: Tensor, noise: Tensor, std: Tensor | float | None = None) -> Tensor:
    """Their sum in the dtype of `clean`, rounded to a grid, so that its low bits tell nothing.

    Args:
        clean: what is hidden; gradients go through to it.
        noise: of the same shape.
        std: the noise's standard deviation, which the grid hangs on; where it is not known before
            the noise is drawn, the root of its mean square.
    """
    if std is None:
        std = noise.detach().square().mean().sqrt() if noise.numel() else 0.0
    total = clean.to(noise.dtype) + noise
    step = grid(float(std))
    return (_Rounded.apply(total, step) if step else total).to(clean.dtype)


def grid(std: float) -> float:
    """Steps to which a release with noise of this standard deviation is rounded; 0: not at all."""
    if not math.isfinite(std) or std < 2.0**-1000:  # no noise, or what no float64 has steps for
        return 0.0
    return math.ldexp(1.0, math.frexp(std)[1] - 1 - GRID_BITS)


class _Rounded(torch.autograd.Function):
    """Rounds to multiples of a step; gradients pass as if it did not."""

    @staticmethod
    def forward(_context: Any, values: Tensor, step: float) -> Tensor:
        return (values / step).round() * step

    @staticmethod
    def backward(_context: Any, *gradients: Any) -> tuple[Any, None]:
        return gradients[0], None


def wide(rows: Tensor) -> tuple[Tensor, float]:
    """Numbers that squares neither overflow nor vanish of, and the power of two that they were
    divided by.

    Gradients may be as small as 1e-30: their squares are 0 in float32, and so would be the noise.

    Returns:
        float64, or float32 where the device has no wider one; at most 1, where they are finite.
    """
    largest = float(rows.detach().abs().amax()) if rows.numel() else 0.0
    scale = math.ldexp(1.0, math.frexp(largest)[1]) if 0 < largest < math.inf else 1.0
    return rows.to(widest(rows.device)) / scale, scale


def widest(device: torch.device) -> torch.dtype:
    """The floats that noise is added in there."""
    return torch.float32 if device.type == "mps" else torch.float64
