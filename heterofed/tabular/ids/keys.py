"""Reads the ids of a table by each key of a recipe, and the one row that each of them stands
for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from heterofed.errors import IdError, MissingIdsError
from heterofed.tabular.ids.recipe import IdRecipe
from heterofed.tabular.ids.table_ids import Duplicates, TableIds, read_ids
from heterofed.tabular.sources import Source

_KEY = "\x1d"
"""The character before the number of the key, which is appended to ids by further keys."""

Rows = np.ndarray[Any, np.dtype[np.int64]]


class RowKeys:
    """The ids of a table by each key; ids by a further key are marked with its number.

    Args:
        name: the name of the table.
        rows: the number of rows of the table.
        by_key: the ids by each key, in the order in which keys are tried.
        recipe: the recipe by which they were read.

    Attributes:
        better: a recipe that suits these ids better; None if there is none.
    """

    def __init__(self, name: str, rows: int, by_key: Sequence[TableIds], recipe: IdRecipe) -> None:
        self._name, self._by_key = name, by_key
        self.better = recipe.improved([each.better for each in by_key])
        self._keyless = rows - len(np.unique(np.concatenate([each.rows for each in by_key])))

    @classmethod
    def read(
        cls,
        source: Source,
        columns: Sequence[str],
        recipe: IdRecipe,
        *,
        duplicates: Duplicates = "error",
        offer_repeats: bool = False,
    ) -> RowKeys:
        """Read the ids of a table by all keys of a recipe.

        Raises:
            ConfigError, ColumnError, IdError: the same as in `read_ids`; or no row has an id by any
            key.
        """
        several = len(recipe.keys) > 1
        found = [
            read_ids(
                source,
                columns,
                recipe,
                duplicates=duplicates,
                offer_repeats=offer_repeats,
                key=key,
                may_be_empty=several,
            )
            for key in range(len(recipe.keys))
        ]
        if not any(map(len, found)):
            raise IdError(f"{source.name} has no id in the columns {', '.join(map(repr, columns))}")
        return cls(source.name, source.rows, found, recipe)

    def ids(self, key: int = 0) -> list[str]:
        """Return the ids by a key, in the order of their rows."""
        return [marked(each, key) for each in self._by_key[key].ids]

    def __len__(self) -> int:
        return len(self._by_key[0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key[0].ids)

    def further(self, common: Iterable[str], key: int) -> list[str]:
        """Return the ids by a key of those rows that none of the common ids stands for."""
        taken = np.unique(self.positions(list(common)))
        found = self._by_key[key]
        free = ~np.isin(found.rows, taken)
        return [marked(each, key) for each, is_free in zip(found.ids, free, strict=True) if is_free]

    def positions(self, ids: Sequence[str]) -> Rows:
        """Return the rows of some ids, in their order.

        Raises:
            MissingIdsError: some ids have no row.
        """
        if len(self._by_key) == 1:
            return self._by_key[0].positions(ids)
        found = np.empty(len(ids), np.int64)
        keys = np.fromiter(map(key_of, ids), np.int64, len(ids))
        for key in np.unique(keys):
            at = np.flatnonzero(keys == key)
            if key >= len(self._by_key):
                raise MissingIdsError(
                    f"{self._name} has no row for {len(at)} of {len(ids)} ids",
                    numbers=(len(at), len(ids)),
                )
            found[at] = self._by_key[key].positions([unmarked(ids[each]) for each in at.tolist()])
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks about the ids for the user; none of them contains an id."""
        if len(self._by_key) == 1:
            return self._by_key[0].notes
        found = [
            f"key {number}: {note}"
            for number, each in enumerate(self._by_key, 1)
            for note in each.notes
        ]
        if self._keyless:
            found.append(
                f"{self._keyless} rows have no id of their own by any key, and are left out"
            )
        return tuple(found)


def marked(id_: str, key: int) -> str:
    """Return an id by a key (from 0), which differs from the same text by another key."""
    return f"{id_}{_KEY}{key + 1}" if key else id_


def unmarked(id_: str) -> str:
    """Return the id without its key."""
    return id_.partition(_KEY)[0]


def key_of(id_: str) -> int:
    """Return the key (from 0) of an id."""
    number = id_.partition(_KEY)[2]
    return int(number) - 1 if re.fullmatch("[2-9]", number) else 0
