"""Records what a party has sent about each row, in all runs of a task, before it is sent.

There is one SQLite file for each party and task. It is not part of checkpoints and only grows, so
that neither a peer nor a restart can undo a record. A pass is recorded in one synced transaction
before its first batch is sent, so that a killed party has counted too much and never too little.
The file holds ids as keyed hashes. This module does not use torch, and it needs to know only that
costs can be added up.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from heterofed.errors import LedgerError
from heterofed.files import append
from heterofed.privacy.ledger_file import open_file, transaction
from heterofed.privacy.passes import Kind
from heterofed.privacy.release_costs import NOTHING_SHARED, Cost, Shared, Totals
from heterofed.privacy.row_groups import NAME_BYTES, RowGroups


@dataclass(frozen=True, slots=True)
class Known:
    """The place of the rows of the last pass of a kind.

    Attributes:
        ids: the ids of the rows; None if the groups have other rows too.
        groups: the ids of the groups, each with the number of times that its rows have changed.
    """

    ids: Sequence[str] | None = None
    groups: dict[int, int] = field(default_factory=dict)


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
        self._known: dict[Kind, Known] = {}
        with self._telling():
            append(self._path, b"")  # private; SQLite gives its journal the same permissions
            self._base = open_file(self._path)
            try:
                self._groups = RowGroups(self._base)
            except BaseException:
                self._base.close()
                raise

    def charge(
        self,
        kind: Kind,
        ids: Sequence[str],
        cost: Cost,
        shared: Shared = NOTHING_SHARED,
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
            known = self._known.pop(kind, Known())
            names = [] if known.ids == ids else self._names(ids)  # slow, so before the lock
            with transaction(self._base):
                if names or self._groups.changes(known.groups) != known.groups:
                    known = self._charge_names(kind, ids, names or self._names(ids), cost)
                else:
                    self._groups.add(known.groups, cost)
                self._charge_shared(shared)
                check(self._totals(self._groups.most(known.groups)))
            self._known[kind] = known

    def totals(self) -> Totals:
        """Return the total costs over all rows."""
        with self._telling():
            return self._totals(self._groups.most())

    def count(self, run: bytes, what: str, times: int = 1) -> int:
        """Count an event of a run, or `times` of them at once, and return its count."""
        return self.count_within(run, what, lambda _: times)[1]

    def count_within(self, run: bytes, what: str, times: Callable[[int], int]) -> tuple[int, int]:
        """Count an event of a run as often as its count so far allows.

        No other process of this party can count between the two.

        Args:
            run: the run.
            what: the event.
            times: called with the count so far, returns how often to count it now; if it raises an
                error, nothing is counted.

        Returns:
            The count before, and the count now.
        """
        with self._telling(), transaction(self._base):
            before = self.counted(run, what)
            more = times(before)
            self._base.execute(
                "INSERT INTO counts VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET times = times + excluded.times",
                (run, what, more),
            )
            return before, before + more

    def counted(self, run: bytes, what: str) -> int:
        """Return how often an event of a run was counted."""
        with self._telling():
            found = self._base.execute(
                "SELECT times FROM counts WHERE run = ? AND what = ?", (run, what)
            ).fetchone()
            return int(found[0]) if found else 0

    def evidence(self, measure: str) -> bytes | None:
        """Return the evidence of a leak that was kept last, or None if there is none."""
        with self._telling():
            found = self._base.execute(
                "SELECT state FROM evidence WHERE measure = ?", (measure,)
            ).fetchone()
            return bytes(found[0]) if found else None

    def keep_evidence(self, measure: str, state: bytes) -> None:
        """Keep the evidence of a leak over all runs of the task."""
        with self._telling(), transaction(self._base):
            self._base.execute("INSERT OR REPLACE INTO evidence VALUES (?, ?)", (measure, state))

    def kept_of(self, run: bytes) -> tuple[dict[str, bytes], dict[str, int]]:
        """Return all evidence by measure, and how often each event of a run was counted."""
        with self._telling():
            evidence = self._base.execute("SELECT measure, state FROM evidence")
            counts = self._base.execute("SELECT what, times FROM counts WHERE run = ?", (run,))
            return {name: bytes(each) for name, each in evidence}, dict(counts.fetchall())

    def bring_back(
        self, run: bytes, evidence: Mapping[str, bytes], counts: Mapping[str, int]
    ) -> None:
        """Write what `kept_of` has returned into this ledger, which is empty."""
        for measure, state in evidence.items():
            self.keep_evidence(measure, state)
        for what, times in counts.items():
            self.count(run, what, times)

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    # -- internal --------------------------------------------------------------------------

    def _charge_names(
        self, kind: Kind, ids: Sequence[str], names: Sequence[bytes], cost: Cost
    ) -> Known:
        """Charge rows that may not be one whole set of groups, and return their place."""
        groups = self._groups.charge(kind, names, cost)
        is_whole = self._groups.size(groups) == len(names)
        return Known(copy.copy(ids) if is_whole else None, groups)

    def _charge_shared(self, shared: Shared) -> None:
        """Charge the cost that all rows share; the same labels are charged once."""
        if shared.draw is not None:
            self._base.execute(
                "INSERT INTO draws VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET steps = steps + excluded.steps",
                shared.draw,
            )
        if shared.labels is not None:
            self._base.execute("INSERT OR IGNORE INTO labels VALUES (?, ?, ?)", shared.labels)

    def _totals(self, most: Cost) -> Totals:
        """Return the totals, given the largest cost of any row."""
        draws = self._base.execute("SELECT noise, rate, steps FROM draws ORDER BY noise, rate")
        labels = self._base.execute(
            "SELECT label_set, sum(epsilon) FROM labels GROUP BY label_set ORDER BY label_set"
        )
        return Totals(most, tuple(draws.fetchall()), tuple(labels.fetchall()))

    def _names(self, ids: Iterable[str]) -> list[bytes]:
        """Return the names of rows in the file, sorted and each once."""
        names = sorted(map(self._name, ids))
        return [each for each, _ in itertools.groupby(names)]

    def _name(self, id_: str) -> bytes:
        """Return the keyed hash under which the file holds an id."""
        raw = id_.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(raw, digest_size=NAME_BYTES, key=self._key).digest()

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
    """Return one SHA-256 of several texts, in which their borders count."""
    raw: Iterable[bytes] = (each.encode("utf-8", "surrogatepass") for each in parts)
    return hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in raw)).digest()
