"""Reads tables of databases: the result of a query is written to a private file and read from it.

A value becomes the text that the driver prints, so that a table is the same whether it comes from
the database or from an export.
"""

from __future__ import annotations

from pathlib import Path

from heterofed.errors import ConfigError
from heterofed.tabular.sources.delimited import read_delimited
from heterofed.tabular.sources.engine import Scratch, connect, literal, need_duckdb, quoted
from heterofed.tabular.sources.parquet import columns_of
from heterofed.tabular.sources.source import Relation
from heterofed.tabular.sources.sql import existing, first_line, rows_named, write_rows

SQLITE_MAGIC = b"SQLite format 3\0"
DUCKDB_MAGIC = b"DUCK"


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
    if url.startswith("duckdb:///"):
        path = existing(url.removeprefix("duckdb:///"))
        name = f"{rows_named(table)} of {path.name}"
        return name, read_duckdb(path, table=table, query=query)
    scratch = Scratch()
    path = scratch.place(".csv")
    name = write_rows(url, path, table=table, query=query)
    return name, read_delimited(path, delimiter=",", encoding="utf-8", header=True, name=name)


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
        raise ConfigError(f"{path.name}: {what} cannot be read: {first_line(error)}") from None
    return Relation(connection, scratch, cells, "rowid", columns_of(connection, cells))
