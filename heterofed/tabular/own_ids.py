"""Gives results the ids as the user's own table writes them, and in the order of that table.

Rows are matched by ids in the form of the recipe. Whoever joins a result onto a table needs the ids
of that table: with its zeros in front, spaces and capital letters, in columns of the same names.
The rows are known by their positions, so only the columns of the ids are read, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from heterofed.tabular.ids import IdRecipe, key_of
from heterofed.tabular.sources import Source
from heterofed.tabular.table import LocalTable

Positions = np.ndarray[Any, np.dtype[np.int64]]

_WHOLE: dict[str, Any] = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT"), "Int64"),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"), "UInt64"),
}
_FRACTIONS = ("FLOAT", "DOUBLE")
_TIMES = ("TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S")
"""The types of DuckDB whose cells a DataFrame holds as numbers or times."""


def ids_as_written(source: Source, columns: Sequence[str], positions: Positions) -> pd.DataFrame:
    """Return the columns of the ids at some positions, in their order.

    Cells are the exact text of the table. Those of a column of numbers or times are such, so that
    the result can be merged with the user's DataFrame.
    """
    names = list(dict.fromkeys(columns))
    ascending, places = np.unique(positions, return_inverse=True)
    parts = list(source.as_written().among(ascending, names))
    found = pd.concat(parts) if parts else pd.DataFrame(columns=names, dtype=str)
    if not np.array_equal(places, np.arange(len(places))):
        found = found.iloc[places]
    return _as_typed(found, source)


def ids_in_parts(table: LocalTable, size: int) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """Yield the ids that a table has read by the first key, in parts of `size`: in the form of the
    recipe, and as the table writes them. A part at a time is in memory.
    """
    source, names = table.source, list(dict.fromkeys(table.id_columns))
    chunks = source.as_written().chunks(columns=names)
    held = next(chunks)
    for ids in table.ids_in_parts(size)[1]:
        places = table.positions(ids)  # which ascend
        while held.index[-1] < places[-1]:
            held = pd.concat([held[held.index >= places[0]], next(chunks)])
        yield ids, _as_typed(held.loc[places], source)


def in_table_order(table: LocalTable, recipe: IdRecipe, frame: pd.DataFrame) -> pd.DataFrame:
    """Return results in the order of a table, with the table's ids in place of the column `id`.

    Args:
        table: the table, whose ids were read.
        recipe: how ids are written. If rows are matched by several keys, the column `matched_by`
            names the columns of the key that matched a row.
        frame: the results, whose column `id` has ids in the form of the recipe.
    """
    ids = frame["id"].tolist()
    positions = table.positions(ids)
    order = np.argsort(positions, kind="stable")
    rest = frame.drop(columns="id").iloc[order].reset_index(drop=True)
    if len(recipe.keys) > 1:
        names = ["+".join(each) for each in recipe.by_key(table.id_columns)]
        rest.insert(0, "matched_by", [names[key_of(ids[at])] for at in order.tolist()])
    return beside(ids_as_written(table.source, table.id_columns, positions[order]), rest)


def beside(own: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Return the table's ids and the results in one frame; a column of the results whose name a
    column of the ids has gets an underscore.
    """
    names = {name: f"{name}_" for name in results.columns if name in own.columns}
    return pd.concat([own, results.rename(columns=names)], axis=1)


def _as_typed(cells: pd.DataFrame, source: Source) -> pd.DataFrame:
    columns = {name: _typed(cells[name], source.type_of(name)) for name in cells.columns}
    return pd.DataFrame(columns).reset_index(drop=True)


def _typed(cells: pd.Series[Any], type_: str) -> pd.Series[Any]:
    """Return cells of numbers or times as such; missing ones are allowed."""
    lacks = cells.hasnans
    if type_ in _WHOLE:
        kind = _WHOLE[type_]
        if not lacks:
            return cells.astype(kind.lower())
        numbers = [int(each) if isinstance(each, str) else None for each in cells]
        return pd.Series(pd.array(numbers, kind), cells.index)
    if type_ in _FRACTIONS:
        return cells.astype("Float64" if lacks else "float64")
    return pd.to_datetime(cells) if type_ in _TIMES else cells
