"""Reads tables of databases: the result of a query is written to a private CSV file and read from
it.

SQLAlchemy connects to the database, in a read-only transaction. A value becomes the text that the
driver prints, so that a table is the same whether it comes from the database or from an export.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heterofed.errors import ConfigError, needing
from heterofed.files import new_file
from heterofed.tabular.sources.delimited import read_delimited
from heterofed.tabular.sources.engine import Scratch, connect, literal, need_duckdb, quoted
from heterofed.tabular.sources.parquet import columns_of
from heterofed.tabular.sources.source import Relation

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

SQLITE_MAGIC = b"SQLite format 3\0"
DUCKDB_MAGIC = b"DUCK"
_AT_ONCE = 10_000
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def read_database(url: str, *, table: str | None, query: str | None) -> tuple[str, Relation]:
    """Return the rows of a table or query of a database, and a name for messages.

    Args:
        url: the address as SQLAlchemy takes it, such as `postgresql://user@host/base` or
            `sqlite:///file.db`.
        table: the name of the table, `schema.name` in another schema; None if there is a query.
        query: the SQL query that returns the rows.

    Raises:
        ConfigError: the database cannot be reached, or has no such table; the message has no
        password.
    """
    if (table is None) == (query is None):
        raise ConfigError("a database has many tables: give table=... or query=...")
    what = f"table {table}" if table else "the query's table"
    if url.startswith("duckdb:///"):
        path = _existing(url.removeprefix("duckdb:///"))
        return f"{what} of {path.name}", read_duckdb(path, table=table, query=query)
    engine, shown = _engine(url)
    try:
        with engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execution_options(postgresql_readonly=True)
            select = query or _select(connection, table or "", shown)
            scratch = Scratch()
            path = scratch.place(".csv")
            with new_file(path) as file:
                for block in _as_csv(connection, select):
                    file.write(block)
        return f"{what} of {shown}", read_delimited(
            path, delimiter=",", encoding="utf-8", header=True, name=f"{what} of {shown}"
        )
    except _errors() as error:
        raise ConfigError(f"{shown}: {_first_line(error)}") from None
    finally:
        engine.dispose()


def read_duckdb(path: Path, *, table: str | None, query: str | None = None) -> Relation:
    """Return a table of a DuckDB file, copied to the scratch folder.

    Raises:
        ConfigError: the file has no such table.
    """
    scratch = Scratch()
    connection = connect(scratch, large=True)
    ((base,),) = connection.execute("SELECT current_database()").fetchall()
    cells = f"{quoted(str(base))}.main.cells"
    try:
        connection.execute(f"ATTACH {literal(str(path))} AS given (READ_ONLY)")
        connection.execute("USE given")
        named = ".".join(map(quoted, (table or "").split(".")))
        connection.execute(f"CREATE TABLE {cells} AS {query or f'SELECT * FROM {named}'}")  # noqa: S608
        connection.execute(f"USE {quoted(str(base))}")
        connection.execute("DETACH given")
    except need_duckdb().Error as error:
        what = f"table {table!r}" if table else "the query"
        raise ConfigError(f"{path.name}: {what} cannot be read: {_first_line(error)}") from None
    return Relation(connection, scratch, cells, "rowid", columns_of(connection, cells))


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise ConfigError(f"there is no database {path}")
    return Path(path)


def _engine(url: str) -> tuple[Engine, str]:
    """Return an engine, and the address without its password."""
    with needing("sql", "a database"):
        from sqlalchemy import create_engine
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError
    try:
        found = make_url(url)
        found = found.set(drivername=_DRIVERS.get(found.drivername, found.drivername))
        shown = found.set(drivername=found.drivername.partition("+")[0]).render_as_string()
        if found.get_backend_name() == "sqlite":
            return _sqlite(_existing(found.database or "")), shown
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


def _as_csv(connection: Connection, select: str) -> Iterator[bytes]:
    from sqlalchemy import text

    options: dict[str, Any] = {"stream_results": True, "max_row_buffer": _AT_ONCE}
    rows = connection.execute(text(select.replace(":", "\\:")), execution_options=options)
    block = io.StringIO()
    writer = csv.writer(block, lineterminator="\n")
    writer.writerow(rows.keys())
    for part in rows.partitions(_AT_ONCE):
        writer.writerows(part)
        yield block.getvalue().encode()
        block.seek(0)
        block.truncate()
    yield block.getvalue().encode()


def _errors() -> tuple[type[Exception], ...]:
    from sqlalchemy.exc import SQLAlchemyError

    return (SQLAlchemyError, OSError)


def _first_line(error: Exception) -> str:
    """Return the message of the database, without the query and its values."""
    said = str(getattr(error, "orig", None) or error).strip()
    return (said.splitlines() or [type(error).__name__])[0]
