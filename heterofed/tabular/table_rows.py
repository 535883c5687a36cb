"""The ids of a table and the row of each: held as they are, or for many rows as hashes.

Of a large table the ids themselves stay where they lie: they are read again, part by part, when the
intersection asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from heterofed.tabular.ids import Duplicates, IdRecipe, read_ids
from heterofed.tabular.ids.index import IdIndex
from heterofed.tabular.ids.table_ids import written_ids
from heterofed.tabular.sources import Source

Positions = np.ndarray[Any, np.dtype[np.int64]]

_AT_ONCE = 65_536
"""Ids that are hashed at a time."""


class TableRows(Protocol):
    """Unique ids, and where their rows are."""

    @property
    def ids(self) -> Iterable[str]:
        """In the order of the rows."""

    def positions(self, ids: Sequence[str]) -> Positions:
        """The rows of some ids, in their order."""


def rows_by_id(
    source: Source,
    columns: Sequence[str],
    recipe: IdRecipe,
    *,
    duplicates: Duplicates,
    offer_repeats: bool,
) -> TableRows:
    """The ids of a table; see `heterofed.tabular.ids.read_ids`."""
    plain = duplicates == "error" and recipe.repeats == 1
    if source.is_large and plain:
        return _ManyRows(source, columns, recipe)
    return read_ids(source, columns, recipe, duplicates=duplicates, offer_repeats=offer_repeats)


class _ManyRows:
    """The rows of a large table, none of whose ids may repeat."""

    def __init__(self, source: Source, columns: Sequence[str], recipe: IdRecipe) -> None:
        self._source, self._columns, self._recipe = source, columns, recipe
        self._index = IdIndex(source, columns, recipe)

    @property
    def ids(self) -> Iterator[str]:
        """Read anew at each call."""
        for part, _ in written_ids(self._source, self._columns, self._recipe):
            yield from part

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
