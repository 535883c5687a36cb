"""Masked sums of float64 numbers that lose no digit, for gradients of sites.

A number is a whole multiple of 2^-80 modulo 2^128, in two's complement: float64 numbers from 2^-28
on are represented exactly, and smaller ones to 2^-80. So a sum does not depend on its order, and is
rounded once, when it is read. Each pair of parties adds and subtracts the same uniform numbers, as
in `masking`. The first party also adds a *cover* drawn from a key that all parties have (see
`mask_seal`) and that the Host, which adds up the parts, does not have.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TypeAlias

import numpy as np

from heterofed.errors import FeatureError, LocalProtocolError
from heterofed.privacy.masking import mask_stream

FRACTION_BITS = 80
ITEM_BYTES = 16

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]
Wide: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.uint64]]
"""Numbers modulo 2^128: the low halves in row 0 and the high halves in row 1."""


class ExactMasker:
    """Masks the parts of one party, each place only once, until the parties connect again.

    Args:
        party: the feature key of this party.
        shared: the secret with each other party of the sum.
    """

    def __init__(self, party: str, shared: Mapping[str, bytes]) -> None:
        self._party = party
        self._shared = {
            name: hmac.digest(each, b"exact sum", sha256) for name, each in shared.items()
        }
        self._masked = (-1, -1)

    def mask(self, numbers: Floats, place: tuple[int, int], cover: bytes | None) -> bytes:
        """Return the masked numbers to send, 16 bytes each.

        Args:
            numbers: the part of this party.
            place: the numbers of the round and of the batch; they only grow.
            cover: the key of the cover, at the first party; None at the others.

        Raises:
            LocalProtocolError: this place or a later one was masked before.
            FeatureError: a number is not finite, or too large.
        """
        if place <= self._masked:
            raise LocalProtocolError("a part is masked only once: two sums tell more than one")
        self._masked = place
        total = encoded(numbers, len(self._shared) + 1)
        for peer, secret in self._shared.items():
            stream = _stream(secret, place, len(numbers))
            total = added(total, stream if self._party < peer else negated(stream))
        if cover is not None:
            total = added(total, _stream(cover, place, len(numbers)))
        return total.tobytes()


def uncovered(payload: bytes | bytearray, place: tuple[int, int], cover: bytes) -> Floats:
    """Return the sum in a payload, from which the cover of its place is removed."""
    total = _wide(payload)
    return decoded(added(total, negated(_stream(cover, place, total.shape[1]))))


def added_up(payloads: Sequence[bytes | bytearray]) -> bytes:
    """Return the sum of masked parts of one size."""
    total = _wide(payloads[0])
    for each in payloads[1:]:
        total = added(total, _wide(each))
    return total.tobytes()


def encoded(numbers: Floats, parties: int) -> Wide:
    """Return numbers modulo 2^128.

    Raises:
        FeatureError: a number is not finite, or so large that the sum over the parties could
            overflow.
    """
    limit = 2.0 ** (127 - FRACTION_BITS) / parties
    sizes = np.abs(numbers)
    if not bool((sizes < limit).all()):  # false for NaN, too
        raise FeatureError(
            f"a gradient or weight is not finite, or not below {limit:g}, so the sum over the sites"
            " has no room for it; lower the learning rate, or look for missing values in the data"
        )
    scaled = sizes * 2.0 ** (FRACTION_BITS - 64)
    high = np.floor(scaled)
    low = (scaled - high) * 2.0**64  # exact, and below 2^64
    wide = np.stack([low.astype(np.uint64), high.astype(np.uint64)])
    return np.where(numbers < 0, negated(wide), wide)


def decoded(wide: Wide) -> Floats:
    """Return numbers modulo 2^128 as float64."""
    negative = wide[1] >> np.uint64(63) == 1
    size = np.where(negative, negated(wide), wide)
    parts = size.astype(np.float64)
    numbers: Floats = parts[1] * 2.0 ** (64 - FRACTION_BITS) + parts[0] * 2.0**-FRACTION_BITS
    numbers[negative] *= -1
    return numbers


def added(one: Wide, other: Wide) -> Wide:
    """Return the sums modulo 2^128."""
    with np.errstate(over="ignore"):
        low = one[0] + other[0]
        return np.stack([low, one[1] + other[1] + (low < one[0])])


def negated(wide: Wide) -> Wide:
    """Return the negatives modulo 2^128."""
    with np.errstate(over="ignore"):
        low = ~wide[0] + np.uint64(1)
        return np.stack([low, ~wide[1] + (low == 0)])


def _wide(payload: bytes | bytearray) -> Wide:
    return np.frombuffer(payload, dtype="<u8").reshape(2, -1)


def _stream(secret: bytes, place: tuple[int, int], count: int) -> Wide:
    where = b"".join(each.to_bytes(8, "big") for each in place)
    return mask_stream(secret, where, 2 * count).reshape(2, -1)
