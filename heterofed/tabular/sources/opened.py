"""Opens a table as a `Source`, by the content of a file and not by its name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from heterofed.errors import ConfigError
from heterofed.tabular.kinds import MISSING
from heterofed.tabular.sources import database, delimited, parquet
from heterofed.tabular.sources.source import Relation, Source

if TYPE_CHECKING:
    import pandas as pd

_URL = re.compile(r"[a-z][a-z0-9+]+://", re.IGNORECASE)
_OTHERS = {b"%PDF": "a PDF", b"\xd0\xcf\x11\xe0": "an old Excel workbook", b"\x89PNG": "a picture"}


def open_source(
    location: str | os.PathLike[str] | pd.DataFrame,
    *,
    table: str | None = None,
    query: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    missing: Iterable[str] = MISSING,
    streams: bool = False,
) -> Source:
    """Open a table: a CSV or Parquet file, a table of a database, or a DataFrame.

    Args:
        location: a path; or the address of a database (`postgresql://...`, `sqlite:///...`,
            `duckdb:///...`); or a DataFrame. The format of a file is detected from its bytes: CSV
            with any delimiter, encoding and compression (gzip, bz2, xz, zip), Parquet, SQLite,
            DuckDB.
        table: the table of a database.
        query: the query of a database, in place of a table.
        delimiter: the delimiter between the fields of a CSV file; None to detect it.
        encoding: the encoding of a CSV file; None to detect it.
        header: whether the first line of a CSV file names its columns; None to detect it. Without a
            header they are called `c1`, `c2` and so on.
        missing: the texts of cells that stand for a missing value; the usual ones by default.
        streams: whether few rows are needed at a time, so that a table of medium size is read from
            files, too, as a large one always is.

    Raises:
        ConfigError: the table cannot be read; the message has the line if there is one.
        ColumnError: columns have the same name, or none.
    """
    if not isinstance(location, str | os.PathLike):
        return Source("the DataFrame", _of_frame(location), missing=missing)
    words = os.fspath(location)
    if _URL.match(words):
        name, relation = database.read_database(words, table=table, query=query)
    else:
        path = Path(words).expanduser()
        name = path.name
        relation = _of_file(path, table, query, delimiter, encoding, header, streams)
    return _filled(Source(name, replace(relation, is_streamed=streams), missing=missing))


def _of_frame(frame: object) -> Relation:
    import pandas

    if not isinstance(frame, pandas.DataFrame):
        raise ConfigError(
            f"a table is a path, the address of a database or a DataFrame, not"
            f" {type(frame).__name__}"
        )
    return parquet.read_frame(frame)


def _of_file(
    path: Path,
    table: str | None,
    query: str | None,
    delimiter: str | None,
    encoding: str | None,
    header: bool | None,
    streams: bool,
) -> Relation:
    head = _head(path)
    kind = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
    if kind:
        raise ConfigError(f"{path.name} is {kind}, not a table; export the table as CSV")
    if head.startswith(database.SQLITE_MAGIC):
        url = f"sqlite:///{path.absolute()}"
        return database.read_database(url, table=table, query=query)[1]
    if head[8:].startswith(database.DUCKDB_MAGIC):
        if (table is None) == (query is None):
            raise ConfigError(f"{path.name} is a database: give table=... or query=...")
        return database.read_duckdb(path, table=table, query=query)
    if table is not None or query is not None:
        raise ConfigError(f"{path.name} is no database: leave out table and query")
    if head.startswith(parquet.MAGIC) or path.suffix.lower() in (".parquet", ".pq"):
        return parquet.read_parquet(path)
    return delimited.read_delimited(
        path, delimiter=delimiter, encoding=encoding, header=header, streams=streams
    )


def _head(path: Path) -> bytes:
    """Return the first bytes of a file.

    Raises:
        ConfigError: the file does not exist or cannot be read.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the file with the table")
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is no plain file; save the table to one")
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}{_near(path)}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _near(path: Path) -> str:
    """Return a message about a file that does not exist."""
    from difflib import get_close_matches

    folder = path.parent
    try:
        names = [each.name for each in folder.iterdir()]
    except OSError:
        return ""
    close = get_close_matches(path.name, names, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _filled(source: Source) -> Source:
    if not source.rows:
        raise ConfigError(f"{source.name} has no row")
    return source
