"""Which rows leave in one pass over some ids, batch by batch. Knows no disk and no tensor.

A pass is charged before its first batch leaves, for every id that the hook was asked for. Later
batches are free as long as no row comes more often than it was charged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

Kind = Literal["train", "test", "predict"]

NOBODY = ""
"""Stands for the rows of a hook that was given no ids, and yields rows all the same."""


class Pass:
    """One pass over some ids by a feature hook.

    Args:
        kind: which hook it is.
        ids: that the hook was given, each once.
    """

    def __init__(self, kind: Kind, ids: Sequence[str]) -> None:
        self.kind = kind
        self.ids = ids or [NOBODY]
        self.batches = 0
        self.times = 0  # that each id of the pass is charged for
        self._in_order = 0  # rows that came as the ids say
        self._unnamed = 0
        self._seen: Counter[str] | None = None  # once rows came in another order
        self._allowed: Counter[str] = Counter()

    def takes(
        self, ids: Sequence[str] | None, rows: int, times: int = 1
    ) -> Iterator[tuple[Sequence[str], int]]:
        """What is to be charged before a batch may leave.

        Args:
            ids: the ids of its rows; None where the hook does not tell.
            rows: that it has.
            times: that each id may come in this pass, as far as is known before.

        Yields:
            Ids, and how many releases of each of them are to be charged.
        """
        self.batches += 1
        if times > self.times:
            yield self._charge_all(times - self.times)
        if ids is None:
            self._unnamed += rows
            # Nobody knows whose rows these are: as if each id came once before any came again.
            needed = -(-(self._in_order + self._unnamed) // len(self.ids))
            if needed > self.times:
                yield self._charge_all(needed - self.times)
        elif self._seen is None and ids == self.ids[self._in_order : self._in_order + len(ids)]:
            self._in_order += len(ids)
        else:
            more = self._beyond(ids)
            for count in set(more.values()):
                yield [each for each, found in more.items() if found == count], count

    def _charge_all(self, times: int) -> tuple[Sequence[str], int]:
        self.times += times
        for each in self._allowed:
            self._allowed[each] += times
        return self.ids, times

    def _beyond(self, ids: Sequence[str]) -> Counter[str]:
        """How often each id comes more than it was charged for."""
        if self._seen is None:
            self._seen = Counter(self.ids[: self._in_order])
            self._allowed = Counter(dict.fromkeys(self.ids, self.times))
        more: Counter[str] = Counter()
        for each in ids:
            self._seen[each] += 1
            if self._seen[each] > self._allowed[each]:
                self._allowed[each] += 1
                more[each] += 1
        return more
