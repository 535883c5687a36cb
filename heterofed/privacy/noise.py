"""Gaussian noise that nobody else can draw again, and that never hides two things.

Noise protects as long as nobody can subtract it. torch's generators do not serve: how the CPU's is
seeded has 32 bits, and a batch that is trained again after a rollback would get the same numbers
for other values. Here every draw has a ChaCha20 key of its own: HMAC-SHA256 by a secret of this
party, 32 bytes, over where the draw stands (phase, peer, round, batch) and over all that the noise
hides. A run that goes on and computes the same again sends the same again, bit for bit; where a
value or a scale differs, the noise is another one.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from torch import Tensor

SECRET_BYTES = 32


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
            shape: of the result.
            hidden: the values that they are to hide, and the scales that they get.

        Returns:
            float64 on the CPU; others with each call, and for other `hidden`.
        """
        key = self._key_for(self._draws, hidden)
        self._draws += 1
        count = math.prod(shape)
        half = (count + 1) // 2
        stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(16 * half))
        bits = torch.from_numpy(np.frombuffer(stream, "<i8").astype(np.int64))
        uniform = (((bits >> 11) & (2**53 - 1)) * 2.0**-53).to(torch.float64).view(2, half)
        length = (-2 * torch.log1p(-uniform[0])).sqrt()  # Box and Muller 1958
        angle = 2 * math.pi * uniform[1]
        return torch.cat([length * angle.cos(), length * angle.sin()])[:count].reshape(tuple(shape))

    def name_for(self, *hidden: Tensor | float) -> str:
        """Names a random stream for what is to be hidden, as unforeseeable as the noise."""
        return self._key_for(-1, hidden).hex()

    def _key_for(self, draw: int, hidden: Sequence[Tensor | float]) -> bytes:
        mac = hmac.new(self._key, draw.to_bytes(8, "big", signed=True), sha256)
        for each in hidden:
            tensor = torch.as_tensor(each).detach().cpu().contiguous()
            mac.update(repr((tensor.dtype, tuple(tensor.shape))).encode() + b"\0")
            mac.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return mac.digest()


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
    return drawn.float().to(like.device) if like.device.type == "mps" else drawn.to(like.device)


def added(clean: Tensor, noise: Tensor) -> Tensor:
    """Their sum in the dtype of `clean`, rounded once, at the end.

    The low bits of a sum tell what was added to what (Mironov, CCS 2012); here they are rounded
    away, unless `clean` is float64 itself.
    """
    return (clean.to(noise.dtype) + noise).to(clean.dtype)
