"""Holds many ids as one text, with 4 bytes per id beside its own instead of the 65 of a string."""

from __future__ import annotations

import heapq
import itertools
import operator
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np

Positions = np.ndarray[Any, np.dtype[Any]]
"""The positions of some ids."""

_AT_ONCE = 8192
"""The number of ids that are converted at a time."""

_SORTED_AT_ONCE = 131_072
"""The number of ids that are sorted at a time."""


class FrozenIds(Sequence[str]):
    """A sequence of ids that cannot be changed, so it need not be copied; slices are lists."""

    def __repr__(self) -> str:
        return f"<{len(self)} ids>"  # ids do not belong in logs

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self[start : start + _AT_ONCE]

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        """Return one id, or a list of some."""
        chosen = range(len(self))[at]
        if isinstance(chosen, int):
            return self.pick(np.array([chosen]))[0]
        return self.pick(np.arange(chosen.start, chosen.stop, chosen.step))

    @abstractmethod
    def pick(self, places: Positions) -> list[str]:
        """Return the ids at some positions, in their order."""


class PackedIds(FrozenIds):
    """Ids as one text.

    Args:
        ids: the ids, which have to be encodable as UTF-8.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        text, parts, stream = bytearray(), [np.zeros(1, np.int64)], iter(ids)
        while some := list(itertools.islice(stream, _AT_ONCE)):
            encoded = [each.encode() for each in some]
            lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
            parts.append(len(text) + np.cumsum(lengths))
            text += b"".join(encoded)
        kind = np.uint32 if len(text) < 1 << 32 else np.int64
        self._text, self._ends = bytes(text), np.concatenate([each.astype(kind) for each in parts])

    @classmethod
    def in_order(cls, ids: Iterable[str]) -> PackedIds:
        """Return ids sorted; only some of them are strings of their own at any time."""
        if isinstance(ids, cls) and ids.is_ascending:
            return ids
        stream, runs = iter(ids), []
        while run := sorted(itertools.islice(stream, _SORTED_AT_ONCE)):
            runs.append(cls(run))
        return runs[0] if len(runs) == 1 else cls(heapq.merge(*runs))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedIds):
            return NotImplemented
        return self._text == other._text and np.array_equal(self._ends, other._ends)

    def __hash__(self) -> int:
        return hash(self._text)

    def __add__(self, others: PackedIds) -> PackedIds:
        """Return these ids and then the others."""
        both = len(self._text) + len(others._text)
        kind = np.uint32 if both < 1 << 32 else np.int64
        ends = (others._ends[1:] + np.int64(len(self._text))).astype(kind)
        return self._made(
            self._text + others._text, np.concatenate([self._ends.astype(kind), ends])
        )

    @classmethod
    def _made(cls, text: bytes, ends: Positions) -> PackedIds:
        packed = cls.__new__(cls)
        packed._text, packed._ends = text, ends
        return packed

    def pick(self, places: Positions) -> list[str]:
        starts, ends = self._ends[places].tolist(), self._ends[places + 1].tolist()
        text = self._text
        return [text[start:end].decode() for start, end in zip(starts, ends, strict=True)]

    def take(self, places: Positions) -> PackedIds:
        """Return the ids at some positions, in their order and in this form."""
        if len(places) == len(self) and bool((places == np.arange(len(self))).all()):
            return self
        parts = (places[at : at + _AT_ONCE] for at in range(0, len(places), _AT_ONCE))
        return PackedIds(each for part in parts for each in self.pick(part))

    @cached_property
    def is_ascending(self) -> bool:
        """Whether the ids are sorted, and none repeats."""
        return all(map(operator.lt, self, itertools.islice(self, 1, None)))

    def dump(self) -> list[bytes]:
        """Return the ids as plain data: their text, and where each of them ends."""
        return [self._text, self._ends.astype("<i8").tobytes()]

    @classmethod
    def load(cls, dumped: list[bytes]) -> PackedIds:
        """Return the ids of a result of `dump`."""
        text, ends = dumped
        kind = np.uint32 if len(text) < 1 << 32 else np.int64
        return cls._made(text, np.frombuffer(ends, "<i8").astype(kind))


class OrderedIds(FrozenIds):
    """Packed ids in another order, without a copy of them.

    Args:
        ids: the ids.
        order: the position of each one among `ids`.
    """

    def __init__(self, ids: PackedIds, order: Positions) -> None:
        self._ids, self._order = ids, order.astype(np.min_scalar_type(max(len(ids), 1)))

    def __len__(self) -> int:
        return len(self._order)

    def pick(self, places: Positions) -> list[str]:
        return self._ids.pick(self._order[places].astype(np.int64))


def kept(ids: Iterable[str]) -> Sequence[str]:
    """Return ids that nobody else can change: as they are if nobody can at all, or else a copy."""
    return ids if isinstance(ids, FrozenIds) else list(ids)


def packed(ids: Sequence[str]) -> PackedIds:
    """Return ids in packed form."""
    return ids if isinstance(ids, PackedIds) else PackedIds(ids)
