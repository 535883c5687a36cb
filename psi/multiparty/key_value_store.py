"""Encodes values by key so that the encoding does not show the keys (an oblivious key-value store).

The encoding is a list of slots of 16 bytes. A key determines a band of 256 slots and a random part
of them; the exclusive or of this part is the value of the key. Any other key has a value as well,
which looks random, and the slots look random if the values do: this is what hides the keys.

This is RB-OKVS (Bienstock, Patel, Seo and Yeo 2023), which is a ribbon filter (Dillinger and Walzer
2021) with wide bands. The bands form a linear system that is nearly triangular, and it is solved by
elimination. With a tenth more slots than keys and bands of 256, sizes that are chosen after that
paper, a system without a solution is very rare; it is noticed, and another seed is drawn.

    encoding    a seed for the hashes (16 bytes), then the slots (16 bytes each)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from psi.errors import CountError, FaultError

SLOT_BYTES = 16
SEED_BYTES = 16
WIDTH = 256

_BAND_BYTES = WIDTH // 8
_START_BYTES = 8
_ATTEMPTS = 3
_BLOCK = 1024  # keys or columns that are expanded to bits at once

Slots = npt.NDArray[np.uint64]


def slots_for(count: int) -> int:
    """Return how many slots encode `count` values."""
    return count + count // 10 + WIDTH


def size_for(count: int) -> int:
    """Return how many bytes encode `count` values."""
    return SEED_BYTES + slots_for(count) * SLOT_BYTES


Item_co = TypeVar("Item_co", covariant=True)


class Lazily(Sequence[Item_co]):
    """A sequence whose items are computed whenever they are read.

    Args:
        count: the number of items.
        item: returns the item at a position.
    """

    def __init__(self, count: int, item: Callable[[int], Item_co]) -> None:
        self._count, self._item = count, item

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: Any) -> Any:
        return self._item(range(self._count)[at])


def encode(keys: Sequence[bytes], values: Sequence[int]) -> bytes:
    """Return the encoding of the values.

    Args:
        keys: distinct byte strings, which nobody may guess who may not read the values.
        values: a number of 128 bits for each key.

    Raises:
        FaultError: a key is repeated.
    """
    for _ in range(_ATTEMPTS):
        seed = secrets.token_bytes(SEED_BYTES)
        system = _System(slots_for(len(keys)))
        if system.add_all(keys, values, seed):
            return seed + system.solve().astype("<u8").tobytes()
    raise FaultError("the key-value store has no solution: a key is repeated")


def decode(encoding: bytes, count: int, keys: Sequence[bytes]) -> list[int]:
    """Return the value of each key. A key that was not encoded has a value that looks random.

    Args:
        encoding: the encoding.
        count: the number of values that it encodes.
        keys: the keys.

    Raises:
        CountError: the encoding has another length.
    """
    if len(encoding) != size_for(count):
        raise CountError(f"a key-value store of {count} values has {len(encoding)} bytes")
    seed = encoding[:SEED_BYTES]
    slots = np.frombuffer(encoding, dtype="<u8", offset=SEED_BYTES).reshape(-1, 2)
    windows = np.lib.stride_tricks.sliding_window_view(slots, WIDTH, axis=0)
    found: list[int] = []
    for at in range(0, len(keys), _BLOCK):
        rows = [_row(key, seed, len(slots)) for key in keys[at : at + _BLOCK]]
        chosen = windows[[start for start, _ in rows]]
        mask = _bits([band for _, band in rows])[:, None, :]
        summed = np.bitwise_xor.reduce(np.where(mask, chosen, np.uint64(0)), axis=2)
        found += _numbers(summed)
    return found


class _System:
    """The equations, of which each has a lead: the first slot in it, which no other one leads.

    They are added in the order of their bands. Those that begin before the present band are final
    and are packed into arrays; the few others are held as numbers.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._open: dict[int, tuple[int, int]] = {}  # band and value, by the leading slot
        self._packed = 0  # the slots before this one are packed
        self._bands = np.zeros((columns, _BAND_BYTES), dtype=np.uint8)
        self._values = np.zeros((columns, 2), dtype="<u8")

    def add_all(self, keys: Sequence[bytes], values: Sequence[int], seed: bytes) -> bool:
        """Add an equation per key; return False if one of them depends on others."""
        starts = (_row(key, seed, self._columns)[0] for key in keys)
        # In this order, an equation meets few others before it finds a slot without one.
        for number in np.argsort(np.fromiter(starts, np.int64, len(keys)), kind="stable"):
            start, band = _row(keys[number], seed, self._columns)
            if start >= self._packed + _BLOCK:
                self._pack(start)
            if not self._add(start, band, values[number]):
                return False
        self._pack(self._columns)
        return True

    def _add(self, start: int, band: int, value: int) -> bool:
        equations = self._open
        while band:
            skipped = (band & -band).bit_length() - 1
            start, band = start + skipped, band >> skipped
            if start not in equations:
                equations[start] = band, value
                return True
            other = equations[start]
            band, value = band ^ other[0], value ^ other[1]
        return False

    def _pack(self, before: int) -> None:
        """Pack the equations whose lead is before this slot."""
        for slot in [each for each in self._open if each < before]:
            band, value = self._open.pop(slot)
            self._bands[slot] = np.frombuffer(band.to_bytes(_BAND_BYTES, "little"), np.uint8)
            self._values[slot] = np.frombuffer(value.to_bytes(SLOT_BYTES, "little"), "<u8")
        self._packed = before

    def solve(self) -> Slots:
        """Return slots that fulfil all equations; those that lead none are random."""
        size = (self._columns + WIDTH) * SLOT_BYTES
        slots = np.frombuffer(bytearray(secrets.token_bytes(size)), dtype="<u8").reshape(-1, 2)
        for first in reversed(range(0, self._columns, _BLOCK)):
            bands = _unpacked(self._bands[first : first + _BLOCK])
            for at in reversed(range(len(bands))):
                if bands[at][0]:
                    column = first + at
                    slots[column] = self._values[column]
                    part = slots[column : column + WIDTH][bands[at]]
                    slots[column] = np.bitwise_xor.reduce(part, axis=0)
        return slots[: self._columns]


def _row(key: bytes, seed: bytes, columns: int) -> tuple[int, int]:
    """Return where the band of a key begins, and its bits, of which the lowest is 1."""
    digest = blake2b(b"row" + key, key=seed, digest_size=_START_BYTES + _BAND_BYTES).digest()
    start = int.from_bytes(digest[:_START_BYTES], "little") * (columns - WIDTH + 1) >> 64
    return start, int.from_bytes(digest[_START_BYTES:], "little") | 1


def _bits(bands: Sequence[int]) -> npt.NDArray[np.bool_]:
    joined = b"".join(band.to_bytes(_BAND_BYTES, "little") for band in bands)
    return _unpacked(np.frombuffer(joined, dtype=np.uint8))


def _unpacked(bands: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return np.unpackbits(bands, bitorder="little").reshape(-1, WIDTH).view(np.bool_)


def _numbers(rows: Any) -> list[int]:
    joined = rows.astype("<u8").tobytes()
    return [
        int.from_bytes(joined[at : at + SLOT_BYTES], "little")
        for at in range(0, len(joined), SLOT_BYTES)
    ]
