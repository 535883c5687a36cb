"""Counts which rows are sent in one pass over some ids, batch by batch.

A pass is charged to the ledger before its first batch is sent, for every id that the hook was
called with. Later batches cost nothing unless a row is sent more often than it was charged. This
module uses no disk and no tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

Kind = Literal["train", "test", "predict"]
"""The kinds of hooks that yield features."""

NOBODY = ""
"""The id to which rows are charged if a hook that was given no ids still yields rows."""


class Pass:
    """One pass over some ids by a feature hook.

    Args:
        kind: the kind of the hook.
        ids: the ids that the hook was called with, each once.
    """

    def __init__(self, kind: Kind, ids: Sequence[str]) -> None:
        self.kind = kind
        self.ids = ids or [NOBODY]
        self.batches = 0
        self.times = 0  # how many releases of each id of the pass are charged
        self._in_order = 0  # the number of rows that came in the order of the ids
        self._unnamed = 0
        self._seen: Counter[str] | None = None  # set when rows came in another order
        self._allowed: Counter[str] = Counter()

    def takes(
        self, ids: Sequence[str] | None, rows: int, times: int = 1
    ) -> Iterator[tuple[Sequence[str], int]]:
        """Yield what must be charged before a batch may be sent.

        Args:
            ids: the ids of the rows of the batch; None if the hook does not give them.
            rows: the number of rows in the batch.
            times: how often each id may occur in this pass, as far as it is known in advance.

        Yields:
            Ids, and how many releases of each of them are to be charged.
        """
        self.batches += 1
        if times > self.times:
            yield self._charge_all(times - self.times)
        if ids is None:
            self._unnamed += rows
            # It is unknown whose rows these are. They are counted as if every id came once before
            # any id came again.
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
        """Charge all ids of the pass, and return them with the number of releases."""
        self.times += times
        for each in self._allowed:
            self._allowed[each] += times
        return self.ids, times

    def _beyond(self, ids: Sequence[str]) -> Counter[str]:
        """Return how many more releases than charged each of these ids has now."""
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
