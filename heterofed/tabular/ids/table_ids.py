"""Reads the ids of a table by a recipe, and the row of each."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

import numpy as np

from heterofed.errors import ConfigError, IdError, MissingIdsError
from heterofed.tabular.ids.doubts import Doubts
from heterofed.tabular.ids.recipe import IdRecipe, Part, joined, nth
from heterofed.tabular.ids.writing import UnfitError
from heterofed.tabular.sources import Source

if TYPE_CHECKING:
    from heterofed.data.places import Places

Duplicates = Literal["error", "first", "last", "many"]
"""The treatment of an id in several rows: refuse it, keep one row, or keep all ("many")."""


@dataclass(frozen=True)
class TableIds:
    """Unique ids, and the positions of their rows.

    Attributes:
        ids: the ids in the order of the rows.
        rows: the row of each id, from 0.
        notes: remarks about the ids for the user.
        most_rows: the most rows with the same id, before duplicates were dropped.
        dropped: the number of rows that were left out because their id is in another row too.
        in_doubt: whether another party could write the same ids in a form that does not match.
        better: the parts of a recipe that suits these ids better, or those by which they were read.
    """

    name: str
    ids: list[str]
    rows: np.ndarray[Any, np.dtype[np.int64]]
    notes: tuple[str, ...] = ()
    most_rows: int = 1
    dropped: int = 0
    in_doubt: bool = False
    better: tuple[Part, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, ids: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the rows of some ids, in their order.

        Raises:
            MissingIdsError: some ids have no row.
        """
        places = self._places.of(ids)
        if absent := int(np.count_nonzero(places < 0)):
            raise MissingIdsError(
                f"{self.name} has no row for {absent} of {len(ids)} ids", numbers=(absent, len(ids))
            )
        return np.asarray(self.rows[places])

    @functools.cached_property
    def _places(self) -> Places:
        from heterofed.data.places import Places  # its package loads torch

        return Places(self.ids)


def read_ids(
    source: Source,
    columns: Sequence[str] | str,
    recipe: IdRecipe | None = None,
    *,
    duplicates: Duplicates = "error",
    offer_repeats: bool = False,
    key: int = 0,
    may_be_empty: bool = False,
) -> TableIds:
    """Read the ids of a table in the form of the recipe.

    Args:
        source: the table.
        columns: the columns that hold the ids, one for each part of the recipe, in its order.
        recipe: how ids are written; None for text.
        duplicates: what to do if several rows have the same id. "many" keeps all of them, at the
            Host; the first row keeps the id, and a number is appended for the others.
        offer_repeats: at a Collaborator, whether each row stands for all `recipe.repeats` rows that
            the Host may have with its id.
        key: the number of the key in the recipe; rows without it are left out if the recipe has
            more keys.
        may_be_empty: whether the result may be empty because no row has that key.

    Raises:
        ConfigError: the number of columns is not that of the parts.
        ColumnError: a column does not exist.
        IdError: ids are missing, are not of the recipe's type, or repeat; the message has the row.
    """
    if duplicates not in get_args(Duplicates):
        raise ConfigError(f"duplicates={duplicates!r}: give one of {get_args(Duplicates)}")
    names = [columns] if isinstance(columns, str) else list(columns)
    recipe = recipe or IdRecipe.of_columns(len(names))
    source.must_have(names)
    chosen = recipe.by_key(names)[key]
    written = WrittenIds(
        source, chosen, recipe.keys[key], may_lack=len(recipe.keys) > 1, may_be_empty=may_be_empty
    )
    ids, rows = written.all()
    kept = _without_duplicates(ids, duplicates, source.name, recipe.repeats)
    found = [ids[at] for at in kept.at] if kept.ids is None else kept.ids
    where = np.asarray(rows, np.int64)[kept.at]
    if offer_repeats and recipe.repeats > 1:
        found = [nth(each, number) for number in range(recipe.repeats) for each in found]
        where = np.tile(where, recipe.repeats)
    dropped = len(ids) - len(kept.at)
    doubts = written.doubts
    return TableIds(
        name=source.name,
        ids=found,
        rows=where,
        notes=doubts.notes(),
        most_rows=kept.most,
        dropped=dropped,
        in_doubt=doubts.remain,
        better=doubts.better(),
    )


def written_ids(
    source: Source, columns: Sequence[str] | str, recipe: IdRecipe | None = None
) -> WrittenIds:
    """Return what reads the ids of a table part by part; repeats are not looked for.

    Raises:
        ConfigError, ColumnError: the same as in `read_ids`.
    """
    names = [columns] if isinstance(columns, str) else list(columns)
    recipe = recipe or IdRecipe.of_columns(len(names))
    source.must_have(names)
    chosen = recipe.by_key(names)[0]
    return WrittenIds(source, chosen, recipe.keys[0], may_lack=len(recipe.keys) > 1)


class WrittenIds:
    """Reads the ids of one key, row by row.

    Attributes:
        doubts: doubts about the ids that were read.
    """

    def __init__(
        self,
        source: Source,
        columns: list[str],
        parts: tuple[Part, ...],
        *,
        may_lack: bool,
        may_be_empty: bool = False,
    ) -> None:
        self._source, self._columns, self._may_lack = source.as_written(), columns, may_lack
        self._may_be_empty = may_be_empty
        self._writers = [part.writer for part in parts]
        self.doubts = Doubts(source.name, columns, parts)

    def all(self) -> tuple[list[str], list[int]]:
        """Return ids and their rows.

        Raises:
            IdError: there is none; or see `read_ids`.
        """
        ids, rows = list[str](), list[int]()
        for some, places in self.parts():
            ids += some
            rows += places
        return ids, rows

    def parts(self) -> Iterator[tuple[list[str], list[int]]]:
        """Yield ids and their rows, part by part.

        Raises:
            IdError: the same as in `all`.
        """
        start = count = 0
        for frame in self._source.chunks(columns=self._columns):
            held = frame.astype(object).where(frame.notna(), None)
            ids, rows = list[str](), list[int]()
            for row, cells in enumerate(held.itertuples(index=False, name=None), start):
                id_ = self._id(row, cells)
                if id_ is not None:
                    ids.append(id_)
                    rows.append(row)
            start += len(frame)
            count += len(ids)
            yield ids, rows
        if not count and not self._may_be_empty:
            raise IdError(f"{self._source.name} has no id in column {self._columns[0]!r}")
        self.doubts.check(count)

    def _id(self, row: int, cells: tuple[str | None, ...]) -> str | None:
        """Return the id of a row; None if it has none and needs none."""
        parts = ["" if cell is None else self._part(row, at, cell) for at, cell in enumerate(cells)]
        if all(parts):
            return joined(parts)
        if not self._may_lack:
            at = parts.index("")
            how = "the id is missing" if cells[at] is None else "the id is blank"
            several = f"; {_several_keys(len(cells))}" if len(cells) > 1 else ""
            self._refuse(row, at, f"{how}{several}; fill it in, or drop")
        return None

    def _part(self, row: int, at: int, cell: str) -> str:
        self.doubts.look(row, at, cell)
        try:
            return self._writers[at](cell)
        except UnfitError as reason:
            self._refuse(row, at, f"{reason}; correct the cell, or drop")

    def _refuse(self, row: int, at: int, what: str) -> NoReturn:
        raise IdError(
            f"{self._source.name}, row {row + 1}, column {self._columns[at]!r}: {what} the row"
        )


def joining_note(columns: int) -> str:
    """Return a remark for a party that names several columns of ids and gives no recipe."""
    return (
        f"{columns} columns are joined to one id, so all of them must agree;"
        f" {_several_keys(columns)}"
    )


def _several_keys(columns: int) -> str:
    keys = ";".join(["text"] * columns)
    return (
        "to match rows by the first column, then the rest by the next, give a recipe of several"
        f" keys (--id-recipe {keys!r}, or such as 'phone:CN;email')"
    )


@dataclass(frozen=True)
class _Kept:
    at: np.ndarray[Any, np.dtype[np.int64]]
    most: int
    ids: list[str] | None = None


def _without_duplicates(ids: list[str], duplicates: Duplicates, name: str, repeats: int) -> _Kept:
    if len(set(ids)) == len(ids):
        return _Kept(np.arange(len(ids)), 1)
    first, counts, numbered = dict[str, int](), dict[str, int](), list[str]()
    for at, each in enumerate(ids):
        number = counts.get(each, 0)
        counts[each] = number + 1
        if duplicates != "first" or not number:
            first[each] = at if duplicates == "last" or not number else first[each]
        numbered.append(nth(each, number))
    most = max(counts.values())
    if duplicates == "error":
        _refuse_duplicates(ids, counts, name)
    if duplicates == "many":
        if most > repeats:
            raise IdError(
                f"{name}: one id stands in {most} rows, and the id recipe allows {repeats}; write"
                f" *{most} behind it"
            )
        return _Kept(np.arange(len(ids)), most, numbered)
    return _Kept(np.asarray(sorted(first.values())), most)


def _refuse_duplicates(ids: list[str], counts: dict[str, int], name: str) -> None:
    if len(counts) == 1:
        raise IdError(
            f"{name}: all {len(ids)} rows have the same id; name the column that tells rows apart"
        )
    rows, seen = list[int](), dict[str, int]()
    for at, each in enumerate(ids):
        if each in seen:
            rows = [seen[each] + 1, at + 1]
            break
        seen[each] = at
    raise IdError(
        f"{name}, rows {rows[0]} and {rows[1]}: the same id stands in both, and"
        f" {len(ids) - len(counts) - 1} more rows repeat one; keep one row of each"
        " (duplicates first or last), or all rows of the Host's (many)"
    )
