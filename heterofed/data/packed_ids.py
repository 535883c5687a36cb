"""Holds many ids as one text, with 4 bytes per id beside its own instead of the 65 of a string."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

Positions = np.ndarray[Any, np.dtype[Any]]
"""The positions of some ids."""

_AT_ONCE = 8192
"""The number of ids that are converted at a time."""

_SORTED_AT_ONCE = 131_072
"""The number of ids that are sorted at a time."""


class PackedIds(Sequence[str]):
    """A sequence of ids that cannot be changed.

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
        stream, runs = iter(ids), []
        while run := sorted(itertools.islice(stream, _SORTED_AT_ONCE)):
            runs.append(cls(run))
        return runs[0] if len(runs) == 1 else cls(heapq.merge(*runs))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __repr__(self) -> str:
        return f"<{len(self)} ids>"  # ids do not belong in logs

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedIds):
            return NotImplemented
        return self._text == other._text and np.array_equal(self._ends, other._ends)

    def __hash__(self) -> int:
        return hash(self._text)

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
            return self._between(chosen, chosen + 1)
        return self.pick(np.arange(chosen.start, chosen.stop, chosen.step))

    def pick(self, places: Positions) -> list[str]:
        """Return the ids at some positions, in their order."""
        starts, ends = self._ends[places].tolist(), self._ends[places + 1].tolist()
        text = self._text
        return [text[start:end].decode() for start, end in zip(starts, ends, strict=True)]

    def take(self, places: Positions) -> PackedIds:
        """Return the ids at some positions, in their order and in this form."""
        if len(places) == len(self) and bool((places == np.arange(len(self))).all()):
            return self
        parts = (places[at : at + _AT_ONCE] for at in range(0, len(places), _AT_ONCE))
        return PackedIds(each for part in parts for each in self.pick(part))

    def _between(self, first: int, last: int) -> str:
        return self._text[self._ends[first] : self._ends[last]].decode()
