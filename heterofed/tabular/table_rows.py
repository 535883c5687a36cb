"""Finds the ids of a table and the row of each, from the ids themselves or from hashes of many.

The ids of a large table are not kept. They are read again, part by part, when the intersection
needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from heterofed.tabular.ids import Duplicates, IdRecipe, RowKeys
from heterofed.tabular.ids.index import IdIndex
from heterofed.tabular.ids.table_ids import written_ids
from heterofed.tabular.sources import Source

Positions = np.ndarray[Any, np.dtype[np.int64]]

_AT_ONCE = 65_536
"""The number of ids that are hashed at a time."""


class TableRows(Protocol):
    """Unique ids by each key, and the positions of their rows; see
    `heterofed.tabular.ids.RowKeys`.
    """

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks about the ids for the user."""

    @property
    def better(self) -> IdRecipe | None:
        """A recipe that suits these ids better; None if there is none."""

    def __len__(self) -> int:
        """Return the number of ids by the first key."""

    def __iter__(self) -> Iterator[str]:
        """Yield the ids by the first key, in the order of their rows."""

    def ids(self, key: int = 0) -> Iterable[str]:
        """Return the ids by a key, in the order of their rows; they can be iterated over again."""

    def further(self, common: Iterable[str], key: int) -> list[str]:
        """Return the ids by a key of those rows that none of the common ids stands for."""

    def positions(self, ids: Sequence[str]) -> Positions:
        """Return the rows of some ids, in their order."""


def rows_by_id(
    source: Source,
    columns: Sequence[str],
    recipe: IdRecipe,
    *,
    duplicates: Duplicates,
    offer_repeats: bool,
) -> TableRows:
    """Return the ids of a table; see `heterofed.tabular.ids.RowKeys.read`."""
    plain = duplicates == "error" and recipe.repeats == 1 and len(recipe.keys) == 1
    if source.is_large and plain:
        return _ManyRows(source, columns, recipe)
    return RowKeys.read(source, columns, recipe, duplicates=duplicates, offer_repeats=offer_repeats)


class _ManyRows:
    """The rows of a large table by one key; none of its ids may repeat."""

    def __init__(self, source: Source, columns: Sequence[str], recipe: IdRecipe) -> None:
        self._source, self._read_by = source, (columns, recipe)
        self._index = IdIndex(source, columns, recipe)
        self.notes, self.better = self._index.notes, self._index.better

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        for part, _ in written_ids(self._source, *self._read_by).parts():
            yield from part

    def ids(self, key: int = 0) -> Iterable[str]:  # noqa: ARG002 - there is one
        """Return the ids, which are read again whenever they are needed."""
        return self

    def further(self, common: Iterable[str], key: int) -> list[str]:  # noqa: ARG002
        """Return nothing, because there is no further key."""
        return []

    def positions(self, ids: Sequence[str]) -> Positions:
        """See `TableRows`.

        Raises:
            MissingIdsError: some have no row.
        """
        parts = [
            self._index.positions(ids[start : start + _AT_ONCE])
            for start in range(0, len(ids), _AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)
