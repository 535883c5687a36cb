"""DuckDB: connections that reach nothing but their own files, and names as SQL takes them."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heterofed.errors import needing
from heterofed.files import temporary_folder

if TYPE_CHECKING:
    import duckdb

MEMORY_MB = 500
"""What DuckDB may hold of a large table; what does not fit goes to the scratch folder."""

READING_MB = 100
"""The same once the table lies in the scratch folder, and is read."""

_COLUMN_MB = 1
"""It needs about so much to write one column of any table, whatever the rows."""

_OFFLINE = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}


class Scratch:
    """A private folder that is removed when nobody holds this object any more, or at exit."""

    def __init__(self) -> None:
        stack = ExitStack()
        self.path: Path = stack.enter_context(temporary_folder())
        self._files = 0
        self.close = weakref.finalize(self, stack.close)

    def place(self, suffix: str = "") -> Path:
        """A path in the folder where nothing lies yet."""
        self._files += 1
        return self.path / f"{self._files}{suffix}"


def need_duckdb() -> Any:
    """The duckdb module.

    Raises:
        ConfigError: it is not installed.
    """
    with needing("table", "a table"):
        import duckdb
    return duckdb


def connect(scratch: Scratch, *, large: bool, columns: int = 0) -> duckdb.DuckDBPyConnection:
    """A connection to a database of its own. Nothing is installed or fetched by it.

    Args:
        scratch: the folder of what does not fit into memory.
        large: whether the table lies on disk, and memory is limited; else it lies in memory.
        columns: of the table.
    """
    place = str(scratch.place(".duckdb")) if large else ":memory:"
    connection: duckdb.DuckDBPyConnection = need_duckdb().connect(place, config=_OFFLINE)
    if large:
        limit = max(MEMORY_MB, columns * _COLUMN_MB)
        connection.execute(f"SET memory_limit = '{limit}MB'")
    connection.execute(f"SET temp_directory = {literal(str(scratch.path / 'spill'))}")
    return connection


def settle(connection: duckdb.DuckDBPyConnection, columns: int) -> None:
    """Give back what it took to write a large table of so many columns."""
    limit = max(READING_MB, columns * _COLUMN_MB)
    connection.execute(f"CHECKPOINT; SET memory_limit = '{limit}MB'")


def quoted(name: str) -> str:
    """A name of a column or table, as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text, as SQL takes it."""
    return "'" + text.replace("'", "''") + "'"
