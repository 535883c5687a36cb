"""Opens what `--ids` names (a file, a folder of Parquet files, a database) and reads its ids.

The rows of a database are copied to a private file first. Whatever changes in the database after
that, a task intersects and writes the rows that it has read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psi
from heterofed.errors import ConfigError, IdError
from heterofed.files import temporary_folder
from heterofed.intersection.ids import own_ids


@dataclass(frozen=True, kw_only=True)
class IdSource:
    """A file or folder with the rows, and what it is to the user."""

    path: Path
    column: str | None
    """The column that holds the ids; None for a text file."""

    name: str
    """Its name in messages, without passwords."""

    remedy: str
    """The advice about ids that cannot be used."""


@contextmanager
def opened_ids(
    place: Path | str, column: str | None, *, table: str | None = None, query: str | None = None
) -> Iterator[IdSource]:
    """Open the source of ids for the block.

    Args:
        place: the path of a file or folder, or the address of a database as a string.
        column: the column of the ids; None for a text file.
        table: the table of a database.
        query: the query of a database, in place of a table.

    Raises:
        ConfigError: it cannot be read; the message has no password and no id.
    """
    if isinstance(place, Path):
        if table is not None or query is not None:
            raise ConfigError(
                f"{place} is a file, so leave out --table and --query; if it is a database of"
                f" SQLite, write --ids sqlite:///{place}"
            )
        yield IdSource(path=place, column=column, name=str(place), remedy="correct the file")
        return
    if (table is None) == (query is None):
        raise ConfigError("a database has many tables: give --table or --query")
    if column is None:
        raise ConfigError("a database has rows: name the column of the ids with --column")
    from heterofed.tabular.sources.sql import write_rows

    with temporary_folder() as folder:
        path = folder / "rows.csv"
        try:
            name = write_rows(place, path, table=table, query=query, ids=column)
        except IdError as error:
            raise ConfigError(str(error)) from None
        yield IdSource(
            path=path,
            column=column,
            name=name,
            remedy="correct the table, or give a --query that leaves such rows out",
        )


def file_of_ids(place: Path | str) -> Path | None:
    """Return the user's file or folder that holds the ids; None for a database on a server."""
    if isinstance(place, Path):
        return place
    from heterofed.tabular.sources.sql import file_of

    return file_of(place)


def read_ids(source: IdSource) -> psi.OwnIds:
    """Return the ids of a source.

    Raises:
        ConfigError: it cannot be read.
    """
    ids, column = source.path, source.column
    if column is None and (ids.is_dir() or ids.suffix.lower() in (".csv", ".tsv", ".parquet")):
        raise ConfigError(
            f"{source.name} looks like a table: name the column of the ids with --column"
        )
    try:
        return own_ids(psi.column(ids, column), f"column {column}" if column else "its lines")
    except OSError as error:  # of this file, or of the temporary files of many ids
        where = error.filename or ids
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            f"the ids cannot be read or kept: {where}: {reason}; make it readable, or make room"
        ) from None
    except (IdError, psi.IdsError) as error:
        raise ConfigError(
            f"the ids in {source.name} cannot be used: {error}; {source.remedy} and start again"
        ) from None
