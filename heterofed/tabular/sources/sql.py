"""Writes the rows of a query of a database to a private CSV file.

SQLAlchemy connects to the database, in a read-only transaction. No message has a password or a
value of a row.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from heterofed.errors import ConfigError, IdError, needing
from heterofed.files import new_file

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_AT_ONCE = 10_000
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_VALUE = re.compile(r"( with text |: \").*", re.DOTALL)
"""The end of a message of a database that quotes a value which it cannot decode or convert."""


def write_rows(
    url: str, path: Path, *, table: str | None, query: str | None, ids: str | None = None
) -> str:
    """Write the rows of a table or query to a new CSV file; return their name for messages.

    Args:
        url: the address as SQLAlchemy takes it.
        path: the file; its first line names the columns.
        table: the name of the table, `schema.name` in another schema; None if there is a query.
        query: the SQL query that returns the rows.
        ids: the column whose cells are ids, or None.

    Raises:
        ConfigError: the database cannot be reached, or has no such table or column of ids.
        IdError: a cell of the column of ids is NULL, or of a type without one form as text.
    """
    engine, shown = _engine(url)
    name = f"{rows_named(table)} of {shown}"
    try:
        with engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execution_options(postgresql_readonly=True)
            select = query or _select(connection, table or "", shown)
            with new_file(path) as file:
                for block in _as_csv(connection, select, name, ids):
                    file.write(block)
    except _errors() as error:
        raise ConfigError(f"{shown}: {first_line(error)}") from None
    finally:
        engine.dispose()
    return name


def rows_named(table: str | None) -> str:
    """Return how messages call the rows."""
    return f"table {table}" if table else "the query's table"


def file_of(url: str) -> Path | None:
    """Return the file that a database is in, or None if it is on a server."""
    kind, _, path = url.partition(":///")
    return Path(path.partition("?")[0]) if kind.partition("+")[0] == "sqlite" else None


def existing(path: str) -> Path:
    """Return the path of a database's file.

    Raises:
        ConfigError: there is no such file.
    """
    if not Path(path).is_file():
        raise ConfigError(f"there is no database {path}")
    return Path(path)


def _engine(url: str) -> tuple[Engine, str]:
    """Return an engine, and the address without passwords, which its parameters may hold, too."""
    with needing("sql", "a database"):
        from sqlalchemy import create_engine
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError
    try:
        found = make_url(url)
        found = found.set(drivername=_DRIVERS.get(found.drivername, found.drivername))
        plain = found.set(drivername=found.drivername.partition("+")[0], query={})
        shown = plain.render_as_string()
        if found.get_backend_name() == "sqlite":
            return _sqlite(existing(found.database or "")), shown
        return create_engine(found), shown
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ConfigError(
            "this is no address of a database that SQLAlchemy knows: write it as"
            " postgresql://user:password@host:5432/base or sqlite:///file.db"
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"the driver of this database is not installed ({error.name}): for"
            " PostgreSQL pip install 'heterofed[sql]', for others see SQLAlchemy's list of dialects"
        ) from None


def _sqlite(path: Path) -> Engine:
    import sqlite3

    from sqlalchemy import create_engine

    address = f"{path.absolute().as_uri()}?mode=ro"  # otherwise it would create a missing file
    return create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True))


def _select(connection: Connection, table: str, shown: str) -> str:
    from sqlalchemy import inspect

    schema, _, name = table.rpartition(".")
    looked = inspect(connection)
    names = [*looked.get_table_names(schema or None), *looked.get_view_names(schema or None)]
    if name not in names:
        listed = ", ".join(map(repr, sorted(names)[:8])) or "none"
        raise ConfigError(f"{shown} has no table {table!r}; its tables: {listed}")
    quote = connection.dialect.identifier_preparer.quote_identifier
    return "SELECT * FROM " + ".".join(map(quote, filter(None, (schema, name))))  # noqa: S608


def _as_csv(connection: Connection, select: str, name: str, ids: str | None) -> Iterator[bytes]:
    from sqlalchemy import text

    options: dict[str, Any] = {"stream_results": True, "max_row_buffer": _AT_ONCE}
    rows = connection.execute(text(select.replace(":", "\\:")), execution_options=options)
    names = list(rows.keys())
    place = None if ids is None else _place(names, ids, name)
    block = io.StringIO()
    # A carriage return is quoted only where it is a part of the line's end.
    writer = csv.writer(block, lineterminator="\r\n")
    writer.writerow(names)
    written = 0
    for part in rows.partitions(_AT_ONCE):
        if place is not None:
            _check_ids((row[place] for row in part), written, f"{name}, column {ids}")
        writer.writerows(part)
        written += len(part)
        yield block.getvalue().encode()
        block.seek(0)
        block.truncate()
    yield block.getvalue().encode()


def _place(names: list[str], ids: str, name: str) -> int:
    if names.count(ids) != 1:
        listed = ", ".join(map(repr, names[:10]))
        raise ConfigError(f"{name} must have one column {ids!r} for the ids; its columns: {listed}")
    return names.index(ids)


def _check_ids(ids: Iterable[object], first: int, where: str) -> None:
    for row, each in enumerate(ids, first):
        if each is None:
            raise IdError(
                f"{where}: row {row} (from 0) is NULL; leave such rows out by a --query with"
                " WHERE ... IS NOT NULL"
            )
        if isinstance(each, bool) or not isinstance(each, str | int | UUID):
            raise IdError(
                f"{where}: row {row} (from 0) is of type {type(each).__name__}, which can be"
                " written in several ways; convert it by a --query with CAST(... AS TEXT), in the"
                " same form as at the other parties"
            )


def _errors() -> tuple[type[Exception], ...]:
    from sqlalchemy.exc import SQLAlchemyError

    return (SQLAlchemyError, OSError)


def first_line(error: Exception) -> str:
    """Return the message of the database, without the query and its values."""
    said = str(getattr(error, "orig", None) or error).strip()
    line = (said.splitlines() or [type(error).__name__])[0]
    return _VALUE.sub("", line)
