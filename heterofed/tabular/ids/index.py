"""Finds the row of an id in tables of many millions of rows, with 12 bytes a row and no ids."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from heterofed.errors import IdError, MissingIdsError
from heterofed.tabular.ids.recipe import IdRecipe
from heterofed.tabular.ids.table_ids import written_ids
from heterofed.tabular.sources import Source

Rows = np.ndarray[Any, np.dtype[np.int64]]


class IdIndex:
    """The rows of a table by the sorted hashes of their ids.

    `read_ids` holds every id as a string, with some 100 bytes a row; here ids are read in parts.
    Two ids of 100 million have the same hash of 64 bits once in 3,700 tables. Then the table is
    refused, as it is if ids repeat.

    Args:
        source: the table.
        columns: the columns that hold the ids.
        recipe: how ids are written; None for text.

    Attributes:
        notes: remarks about the ids for the user.
        better: a recipe that suits these ids better; None if there is none.

    Raises:
        ColumnError, ConfigError, IdError: the same as in `read_ids`.
    """

    def __init__(
        self, source: Source, columns: Sequence[str] | str, recipe: IdRecipe | None = None
    ) -> None:
        self._name = source.name
        kind = np.int32 if source.rows < 1 << 31 else np.int64
        hashes, rows = np.empty(source.rows, np.uint64), np.empty(source.rows, kind)
        count = 0
        written = written_ids(source, columns, recipe)
        for part, places in written.parts():
            hashes[count : count + len(part)] = _hashed(part)
            rows[count : count + len(part)] = places
            count += len(part)
        self.notes = written.doubts.notes()
        read_by = recipe or IdRecipe.of_columns(1 if isinstance(columns, str) else len(columns))
        self.better = read_by.improved([written.doubts.better()])
        order = np.argsort(hashes[:count])
        self._hashes, self._rows = hashes[order], rows[order]
        twice = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        if len(twice):
            first, second = sorted(self._rows[twice[0] : twice[0] + 2].tolist())
            raise IdError(
                f"{self._name}, rows {first + 1} and {second + 1}: the same id stands in both, and"
                f" {len(twice) - 1} more rows repeat one; keep one row of each"
            )

    def __len__(self) -> int:
        return len(self._hashes)

    def positions(self, ids: Sequence[str]) -> Rows:
        """Return the rows of some ids, in their order.

        Raises:
            MissingIdsError: some ids have no row.
        """
        wanted = _hashed(ids)
        at = np.searchsorted(self._hashes, wanted)
        at[at == len(self._hashes)] = 0
        absent = int(np.count_nonzero(self._hashes[at] != wanted))
        if absent:
            raise MissingIdsError(
                f"{self._name} has no row for {absent} of {len(ids)} ids",
                numbers=(absent, len(ids)),
            )
        found: Rows = self._rows[at].astype(np.int64)
        return found


def _hashed(ids: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    joined = b"".join(blake2b(each.encode(), digest_size=8).digest() for each in ids)
    return np.frombuffer(joined, "<u8")
