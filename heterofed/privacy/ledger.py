"""Records what a party has sent about each row, in all runs of a task, before it is sent.

There is one SQLite file for each party and task. It is not part of checkpoints and only grows, so
that neither a peer nor a restart can undo a record. A pass is recorded in one synced transaction
before its first batch is sent, so that a killed party has counted too much and never too little.
The file holds ids as keyed hashes. This module knows no torch, and of costs only that they add up.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from heterofed.errors import LedgerError
from heterofed.files import append
from heterofed.privacy.passes import Kind

LOCK_SECONDS = 30.0
"""The longest time in seconds to wait for another process of this party that uses the file."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    row INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE,
    sent INTEGER NOT NULL DEFAULT 0, embeddings REAL NOT NULL DEFAULT 0,
    weights REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS draws (
    noise REAL, rate REAL, steps INTEGER NOT NULL, PRIMARY KEY (noise, rate)
);
CREATE TABLE IF NOT EXISTS labels (
    label_set TEXT, coins BLOB, epsilon REAL, PRIMARY KEY (label_set, coins, epsilon)
);
CREATE TABLE IF NOT EXISTS counts (
    run BLOB, what TEXT, times INTEGER NOT NULL, PRIMARY KEY (run, what)
);
"""

CHOSEN = """
CREATE TEMP TABLE chosen (kind TEXT, row INTEGER, PRIMARY KEY (kind, row)) WITHOUT ROWID
"""
"""The rows that a pass of each kind is about."""

CHARGE = """
UPDATE rows SET sent = sent + ?, embeddings = embeddings + ?, weights = weights + ?
WHERE row IN (SELECT row FROM chosen WHERE kind = ?)
"""
MOST = "SELECT max(sent), max(embeddings), max(weights) FROM rows"
MOST_CHOSEN = """
SELECT max(sent), max(embeddings), max(weights) FROM rows
WHERE row IN (SELECT row FROM chosen WHERE kind = ?)
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one release for each of its rows; costs add up.

    Attributes:
        sent: the number of releases, of embeddings at a Collaborator and of gradients at the Host.
        embeddings: the squared mu of the noise on embeddings; infinity without noise.
        weights: the squared mu of a DP-SGD step with the row, if the rows of a batch are known.
    """

    sent: int = 0
    embeddings: float = 0.0
    weights: float = 0.0

    def __mul__(self, times: int) -> Cost:
        """Return the cost of several releases."""
        return Cost(self.sent * times, self.embeddings * times, self.weights * times)


@dataclass(frozen=True, slots=True)
class Shared:
    """The cost of a release that all rows share.

    Attributes:
        draw: the noise multiplier, the probability of a row to be in a batch, and the number of
            steps, for DP-SGD with sampling.
        labels: the name of the labels, the identifier of their random choices, and their epsilon,
            which counts once.
    """

    draw: tuple[float, float, int] | None = None
    labels: tuple[str, bytes, float] | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """The total costs so far.

    Attributes:
        most: the largest cost of any row, separately for each measure.
        draws: the noise multipliers, rates and steps of DP-SGD with sampling.
        labels: the names of the labels, with the epsilon of all their random choices.
    """

    most: Cost
    draws: tuple[tuple[float, float, int], ...]
    labels: tuple[tuple[str, float], ...]


class ReleaseLedger:
    """The ledger of one party and task.

    Args:
        folder: the folder of the file, which only this user can enter.
        task_id: the id of the task.
        party: the feature key of the party that owns the rows.

    Raises:
        LedgerError: the file cannot be read or written.
    """

    def __init__(self, folder: Path, task_id: str, party: str) -> None:
        self._key = _digest(task_id, party)
        self._path = folder / f"{self._key.hex()[:32]}.sqlite"
        self._chosen: dict[Kind, Sequence[str]] = {}
        with self._telling():
            append(self._path, b"")  # private; SQLite gives its journal the same permissions
            self._base = sqlite3.connect(
                self._path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
            # With less than EXTRA, a power cut right after a commit could undo it.
            self._base.execute("PRAGMA synchronous = EXTRA")
            self._base.executescript(SCHEMA + CHOSEN)

    def charge(
        self,
        kind: Kind,
        ids: Sequence[str],
        cost: Cost,
        shared: Shared = Shared(),
        check: Callable[[Totals], None] = lambda _totals: None,
    ) -> None:
        """Record a release of rows, which may be sent when this method has returned.

        Args:
            kind: the kind of the pass; the ids of its last release are found faster.
            ids: the ids of the rows.
            cost: the cost of each row.
            shared: the cost that all rows share.
            check: called with the totals of these rows after the release; if it raises an error,
                nothing is recorded.

        Raises:
            LedgerError: the file cannot be written.
        """
        with self._telling():
            self._choose(kind, ids)
            with self._transaction():
                self._base.execute(CHARGE, (cost.sent, cost.embeddings, cost.weights, kind))
                self._charge_shared(shared)
                check(self._totals(MOST_CHOSEN, (kind,)))

    def totals(self) -> Totals:
        """Return the total costs over all rows."""
        with self._telling():
            return self._totals(MOST)

    def count(self, run: bytes, what: str) -> int:
        """Count an event of a run, and return its count."""
        with self._telling(), self._transaction():
            self._base.execute(
                "INSERT INTO counts VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
                (run, what),
            )
            found = self._base.execute(
                "SELECT times FROM counts WHERE run = ? AND what = ?", (run, what)
            )
            return int(found.fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    # -- internal --------------------------------------------------------------------------

    def _choose(self, kind: Kind, ids: Sequence[str]) -> None:
        """Select the rows of some ids, and add new rows for unknown ids."""
        if self._chosen.get(kind) == ids:
            return
        self._chosen.pop(kind, None)
        names = [self._name(each) for each in ids]
        with self._transaction():
            self._base.execute("DELETE FROM chosen WHERE kind = ?", (kind,))
            self._base.executemany(
                "INSERT OR IGNORE INTO rows (name) VALUES (?)", ((name,) for name in names)
            )
            self._base.executemany(
                "INSERT OR IGNORE INTO chosen SELECT ?, row FROM rows WHERE name = ?",
                ((kind, name) for name in names),
            )
        self._chosen[kind] = list(ids)

    def _charge_shared(self, shared: Shared) -> None:
        if shared.draw is not None:
            self._base.execute(
                "INSERT INTO draws VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET steps = steps + excluded.steps",
                shared.draw,
            )
        if shared.labels is not None:
            self._base.execute("INSERT OR IGNORE INTO labels VALUES (?, ?, ?)", shared.labels)

    def _totals(self, query: str, arguments: tuple[str, ...] = ()) -> Totals:
        sent, embeddings, weights = self._base.execute(query, arguments).fetchone()
        draws = self._base.execute("SELECT noise, rate, steps FROM draws ORDER BY noise, rate")
        labels = self._base.execute(
            "SELECT label_set, sum(epsilon) FROM labels GROUP BY label_set ORDER BY label_set"
        )
        return Totals(
            Cost(sent or 0, embeddings or 0.0, weights or 0.0),
            tuple(draws.fetchall()),
            tuple(labels.fetchall()),
        )

    def _name(self, id_: str) -> bytes:
        raw = id_.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(raw, digest_size=16, key=self._key).digest()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._base.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # it may have been rolled back by itself
                self._base.execute("ROLLBACK")
            raise

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn an error of the disk or of SQLite into a LedgerError."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(
                f"the ledger of what this party has sent, {self._path}, cannot be used ({error});"
                " make room there, or restore it from a copy. Remove it only if what was sent no"
                " longer counts"
            ) from error


def _digest(*parts: str) -> bytes:
    raw: Iterable[bytes] = (each.encode("utf-8", "surrogatepass") for each in parts)
    return hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in raw)).digest()
