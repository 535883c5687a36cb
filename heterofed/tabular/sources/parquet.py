"""Reads Parquet files and DataFrames, which are tables whose columns have types."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.sources.engine import (
    Scratch,
    connect,
    interruptible,
    literal,
    need_duckdb,
    quoted,
)
from heterofed.tabular.sources.source import Cells, Relation

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

MAGIC = b"PAR1"
_ROW = "file_row_number"


def read_parquet(path: Path) -> Relation:
    """Return the table in a Parquet file, which is read without a copy.

    Raises:
        ConfigError: the file is not a Parquet file, or is damaged.
    """
    scratch = Scratch()
    connection = connect(scratch, large=True)
    try:
        connection.execute(
            f"CREATE VIEW cells AS SELECT * FROM read_parquet({literal(str(path))},"  # noqa: S608
            f" {_ROW} = true)"
        )
        columns = columns_of(connection, "cells")
    except need_duckdb().Error:
        raise ConfigError(
            f"{path.name} is no Parquet file, or a damaged one; write it again, or give a CSV file"
        ) from None
    columns.pop(_ROW)
    return Relation(connection, scratch, "cells", _ROW, columns)


def read_frame(frame: pd.DataFrame) -> Relation:
    """Return the table in a DataFrame; a named index is one of its columns.

    Raises:
        ColumnError: two columns have the same name, or one cannot be read.
        ConfigError: there is no row.
    """
    if any(frame.index.names):
        frame = frame.reset_index()
    names = [str(each) for each in frame.columns]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ColumnError(f"the DataFrame has more than one column {twice[0]!r}; rename one")
    if not len(frame.columns) or frame.empty:
        raise ConfigError("the DataFrame has no row")
    scratch = Scratch()
    connection = connect(scratch, large=False)
    try:
        frame = frame.set_axis([f"c{at}" for at in range(len(names))], axis=1)
        connection.register("given", frame)
        with interruptible():
            connection.execute("CREATE TABLE cells AS SELECT * FROM given")
        connection.unregister("given")
    except need_duckdb().Error as error:
        raise ColumnError(f"the DataFrame cannot be read ({type(error).__name__})") from None
    cells = columns_of(connection, "cells").values()
    columns = dict(zip(names, cells, strict=True))
    return Relation(connection, scratch, "cells", "rowid", columns)


def columns_of(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, Cells]:
    """Return the columns of a table in DuckDB, by their names there."""
    found = connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()  # noqa: S608
    return {str(name): Cells(quoted(str(name)), str(kind)) for name, kind, *_ in found}
