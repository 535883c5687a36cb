"""Opens the SQLite file of a ledger, and brings the file of an earlier version up to date."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_SECONDS = 120.0
"""The longest time in seconds to wait for another process of this party that uses the file. The
first pass over ten million rows holds it for up to a minute."""

VERSION = 2
"""The version of the schema, in the header of the file. It was 0 when each row had its counts, and
1 before evidence of leaks was kept."""

EVIDENCE = "CREATE TABLE evidence (measure TEXT PRIMARY KEY, state BLOB NOT NULL)"

SCHEMA = (
    """
    CREATE TABLE groups (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL,
        size INTEGER NOT NULL, changes INTEGER NOT NULL DEFAULT 0,
        sent INTEGER NOT NULL, embeddings REAL NOT NULL, weights REAL NOT NULL
    )
    """,
    "CREATE INDEX groups_by_cost ON groups (kind, sent, embeddings, weights)",
    "CREATE TABLE members (name BLOB PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID",
    """
    CREATE VIEW rows AS
    SELECT name, sent, embeddings, weights FROM members JOIN groups USING (id)
    """,
    """
    CREATE TABLE IF NOT EXISTS draws (
        noise REAL, rate REAL, steps INTEGER NOT NULL, PRIMARY KEY (noise, rate)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS labels (
        label_set TEXT, coins BLOB, epsilon REAL, PRIMARY KEY (label_set, coins, epsilon)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS counts (
        run BLOB, what TEXT, times INTEGER NOT NULL, PRIMARY KEY (run, what)
    )
    """,
    EVIDENCE,
)
"""The view `rows` has the name of the table of version 0. So an earlier version of this package
fails on the file; otherwise it would start a table of its own at zero.
"""

FROM_VERSION_0 = (
    """
    INSERT INTO groups (kind, size, sent, embeddings, weights)
    SELECT '', count(*), sent, embeddings, weights FROM rows_0 GROUP BY sent, embeddings, weights
    """,
    """
    INSERT INTO members
    SELECT name, id FROM rows_0 JOIN groups USING (sent, embeddings, weights) ORDER BY name
    """,
    "DROP TABLE rows_0",
)


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file at `path`, which may be empty, and bring it to this version.

    Raises:
        sqlite3.Error: it cannot be read or written, or a later version has written it.
    """
    base = sqlite3.connect(
        path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        # With less than EXTRA, a power cut right after a commit could undo it.
        base.execute("PRAGMA synchronous = EXTRA")
        _log_ahead(base)
        if _version(base) != VERSION:
            with transaction(base):
                _upgrade(base)
    except BaseException:
        base.close()
        raise
    return base


@contextmanager
def transaction(base: sqlite3.Connection) -> Iterator[None]:
    """Run a block whose writes are synced together when it ends, or undone if it raises."""
    base.execute("BEGIN IMMEDIATE")
    try:
        yield
        base.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite may already have rolled it back
            base.execute("ROLLBACK")
        raise


def _log_ahead(base: sqlite3.Connection) -> None:
    """Let a commit append to a log, which is one sync of the disk; a journal takes four of them.

    The log is merged into the file when its last user closes it, or after a crash when the file is
    opened again. Where this mode is not possible, or another process is just using the file, the
    journal stays.
    """
    with contextlib.suppress(sqlite3.OperationalError):
        base.execute("PRAGMA journal_mode = WAL")


def _version(base: sqlite3.Connection) -> int:
    """Return the version of the file's format; a new file has 0."""
    return int(base.execute("PRAGMA user_version").fetchone()[0])


def _upgrade(base: sqlite3.Connection) -> None:
    """Make the tables, unless another process has already made them."""
    found = _version(base)
    if found == VERSION:
        return
    if found > VERSION:
        raise sqlite3.DatabaseError("a later version of heterofed has written it")
    if found == 1:
        base.execute(EVIDENCE)
        base.execute(f"PRAGMA user_version = {VERSION}")
        return
    tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'rows'"
    has_rows = base.execute(tables).fetchone()[0]
    if has_rows:
        base.execute("ALTER TABLE rows RENAME TO rows_0")
    for statement in (*SCHEMA, *(FROM_VERSION_0 if has_rows else ())):
        base.execute(statement)
    base.execute(f"PRAGMA user_version = {VERSION}")
