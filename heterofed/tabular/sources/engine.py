"""Opens DuckDB connections that can reach nothing but their own files, and quotes names for SQL."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heterofed.errors import needing
from heterofed.files import temporary_folder

if TYPE_CHECKING:
    import duckdb

MEMORY_MB = 500
"""The limit of DuckDB's memory for a large table; the rest goes to the scratch folder."""

READING_MB = 100
"""The same limit once the table is in the scratch folder, and is read from there."""

_COLUMN_MB = 1
"""The approximate memory that it needs to write one column of any table, for any number of rows."""

_OFFLINE = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}


_INTERRUPTED = "Query interrupted"


class Scratch:
    """A private folder that is removed when this object is no longer used, or at exit."""

    def __init__(self) -> None:
        stack = ExitStack()
        self.path: Path = stack.enter_context(temporary_folder())
        self._files = 0
        self.close = weakref.finalize(self, stack.close)

    def place(self, suffix: str = "") -> Path:
        """Return the path of a file in the folder that does not exist yet."""
        self._files += 1
        return self.path / f"{self._files}{suffix}"


def need_duckdb() -> Any:
    """Return the duckdb module.

    Raises:
        ConfigError: it is not installed.
    """
    with needing("table", "a table"):
        import duckdb
    return duckdb


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a program while DuckDB is at work.

    DuckDB drops what the handler of a signal has raised, and raises a plain RuntimeError in its
    place, which whoever calls it takes for a failure.

    Raises:
        KeyboardInterrupt: a signal has come.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error) != _INTERRUPTED:
            raise
        raise KeyboardInterrupt from None


def connect(
    scratch: Scratch, *, large: bool, columns: int = 0, memory: int = MEMORY_MB
) -> duckdb.DuckDBPyConnection:
    """Return a connection to a database of its own; it never installs or downloads anything.

    Args:
        scratch: the folder for data that do not fit into memory.
        large: whether the table is on disk and memory is limited; otherwise the table is in memory.
        columns: the number of columns of the table.
        memory: the limit of memory in MB, if it is large.
    """
    place = str(scratch.place(".duckdb")) if large else ":memory:"
    connection: duckdb.DuckDBPyConnection = need_duckdb().connect(place, config=_OFFLINE)
    if large:
        limit = max(memory, columns * _COLUMN_MB)
        connection.execute(f"SET memory_limit = '{limit}MB'")
    connection.execute(f"SET temp_directory = {literal(str(scratch.path / 'spill'))}")
    return connection


def settle(connection: duckdb.DuckDBPyConnection, columns: int) -> None:
    """Free the memory that was needed to write a large table of so many columns."""
    limit = max(READING_MB, columns * _COLUMN_MB)
    connection.execute(f"CHECKPOINT; SET memory_limit = '{limit}MB'")


def quoted(name: str) -> str:
    """Return the name of a column or table, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text, quoted for SQL."""
    return "'" + text.replace("'", "''") + "'"
