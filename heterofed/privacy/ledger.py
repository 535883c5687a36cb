"""What has left this party of each row, in all runs of a task: on disk before it leaves.

One SQLite file per party and task. It lies outside the checkpoints and only grows, so that nothing
that a peer or a restart does takes anything back. A pass is charged in one synced transaction
before its first batch leaves: a party that is killed has counted too much, never too little.
Knows no torch, and of the costs only that they add up. Ids are in it as keyed hashes.
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
"""For another process of this party that counts, which takes a moment."""

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
    """What one release costs each of its rows; squared mus of Gaussian mechanisms, which add up.

    Attributes:
        sent: releases: of embeddings at a Collaborator, of gradients at the Host.
        embeddings: of the noise on embeddings; infinity where there is none.
        weights: of a step by DP-SGD that the row is in, where it is known who is in a batch.
    """

    sent: int = 0
    embeddings: float = 0.0
    weights: float = 0.0

    def __mul__(self, times: int) -> Cost:
        """Of so many releases."""
        return Cost(self.sent * times, self.embeddings * times, self.weights * times)


@dataclass(frozen=True, slots=True)
class Shared:
    """What is charged for all rows at once.

    Attributes:
        draw: noise multiplier, chance of a row to be in a batch, and steps of DP-SGD by sampling.
        labels: which labels, the name of the coins by which they are turned, and the epsilon of
            these, which counts once.
    """

    draw: tuple[float, float, int] | None = None
    labels: tuple[str, bytes, float] | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What has left so far: the most of any row, and what counts for all rows.

    Attributes:
        most: of any row, each measure by itself.
        draws: noise multiplier, rate and steps of DP-SGD by sampling.
        labels: which labels were told, and the epsilon of all coins that turned them.
    """

    most: Cost
    draws: tuple[tuple[float, float, int], ...]
    labels: tuple[tuple[str, float], ...]


class ReleaseLedger:
    """The count of one party and task.

    Args:
        folder: to keep it in, which only this user can enter.
        task_id: of the task.
        party: whose rows they are.

    Raises:
        LedgerError: it cannot be read or written.
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
            # Extra: else a power cut right after a commit could bring back what was before it.
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
        """Count a release of rows; it may leave once this returns.

        Args:
            kind: of the pass; ids that were charged under it last are found faster.
            ids: of the rows.
            cost: of each row.
            shared: what else is released with them.
            check: gets what will have left of these rows then; where it raises, nothing is counted.

        Raises:
            LedgerError: it cannot be written.
        """
        with self._telling():
            self._choose(kind, ids)
            with self._transaction():
                self._base.execute(CHARGE, (cost.sent, cost.embeddings, cost.weights, kind))
                self._charge_shared(shared)
                check(self._totals(MOST_CHOSEN, (kind,)))

    def totals(self) -> Totals:
        """What has left so far, over all rows."""
        with self._telling():
            return self._totals(MOST)

    def count(self, run: bytes, what: str) -> int:
        """Count something that happened in a run; gives how often it has, this time too."""
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
        """Let go of the file."""
        self._base.close()

    # -- within ----------------------------------------------------------------------------

    def _choose(self, kind: Kind, ids: Sequence[str]) -> None:
        """Note which rows are meant; they are added where they are new."""
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
        """Turn what the disk or SQLite says into an error of ours."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(
                f"the count of what has left this party, {self._path}, cannot be used ({error});"
                " make room there, or bring it back from a copy. Remove it only where nothing that"
                " has left counts any more"
            ) from error


def _digest(*parts: str) -> bytes:
    raw: Iterable[bytes] = (each.encode("utf-8", "surrogatepass") for each in parts)
    return hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in raw)).digest()
