"""Rows with one history share one record; each row counts as in a record of its own."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import signal
import sqlite3
import tempfile
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterofed.errors import LedgerError
from heterofed.privacy.ledger import ReleaseLedger
from heterofed.privacy.passes import Kind
from heterofed.privacy.release_costs import Cost, Shared, Totals
from tests.privacy.ledgers import opened

IDS = [f"id-{number}" for number in range(9)]
FORK = multiprocessing.get_context("fork")

Charge = tuple[Kind, Sequence[str], Cost]

TABLES_0 = """
CREATE TABLE rows (
    row INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE,
    sent INTEGER NOT NULL DEFAULT 0, embeddings REAL NOT NULL DEFAULT 0,
    weights REAL NOT NULL DEFAULT 0
);
CREATE TABLE draws (noise REAL, rate REAL, steps INTEGER NOT NULL, PRIMARY KEY (noise, rate));
CREATE TABLE labels (
    label_set TEXT, coins BLOB, epsilon REAL, PRIMARY KEY (label_set, coins, epsilon)
);
CREATE TABLE counts (run BLOB, what TEXT, times INTEGER NOT NULL, PRIMARY KEY (run, what));
"""
"""The file before rows were grouped."""


def path_of(folder: Path) -> Path:
    (path,) = (folder / "releases").glob("*.sqlite")
    return path


def totals_of(ledger: ReleaseLedger, id_: str) -> Cost:
    """What one row has cost."""
    seen: list[Totals] = []
    ledger.charge("predict", [id_], Cost(), check=seen.append)
    return seen[0].most


def as_version_0(folder: Path) -> None:
    """Turn a file into one of the version that had a record for each row."""
    path = path_of(folder)
    base = sqlite3.connect(path)
    rows = base.execute("SELECT name, sent, embeddings, weights FROM rows").fetchall()
    others = {
        table: base.execute(f"SELECT * FROM {table}").fetchall()
        for table in ("draws", "labels", "counts")
    }
    base.close()
    path.unlink()
    base = sqlite3.connect(path)
    base.executescript(TABLES_0)
    base.executemany("INSERT INTO rows (name, sent, embeddings, weights) VALUES (?, ?, ?, ?)", rows)
    for table, lines in others.items():
        base.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", lines)
    base.commit()
    base.close()


def group_sizes(folder: Path) -> list[int]:
    """The sizes of all groups; each is the number of rows in it."""
    base = sqlite3.connect(path_of(folder))
    told = base.execute("SELECT id, size FROM groups ORDER BY id").fetchall()
    query = "SELECT id, count(*) FROM members GROUP BY id ORDER BY id"
    assert told == base.execute(query).fetchall()
    base.close()
    return sorted(size for _, size in told)


# -- the same as a record for each row ---------------------------------------------------------

PARTS = st.sampled_from([IDS[:5], IDS[5:], IDS[::-1]]) | st.lists(
    st.sampled_from(IDS), min_size=1, max_size=9
)
COSTS = st.builds(
    Cost, st.integers(0, 2), st.sampled_from([0.0, 0.1, 0.3, math.inf]), st.sampled_from([0.0, 0.7])
)
PASSES = st.tuples(st.sampled_from(["train", "test", "predict"]), PARTS, COSTS)
DONE = st.sampled_from(["charge", "charge", "by another process", "refuse", "reopen", "upgrade"])


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(DONE, PASSES), max_size=12))
def test_each_row_counts_as_in_a_record_of_its_own(steps: list[tuple[str, Charge]]) -> None:
    expected = dict.fromkeys(IDS, Cost())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ledger = opened(folder)
        for done, (kind, ids, cost) in steps:
            if done == "reopen" or done == "upgrade":
                ledger.close()
                if done == "upgrade":
                    as_version_0(folder)
                ledger = opened(folder)
            if done == "refuse":
                with pytest.raises(ZeroDivisionError):
                    ledger.charge(kind, ids, cost, check=lambda _: 1 / 0)  # type: ignore[arg-type]
                continue
            other = opened(folder) if done == "by another process" else ledger
            expected |= {each: expected[each] + cost for each in ids}
            seen: list[Totals] = []
            other.charge(kind, ids, cost, check=seen.append)
            assert seen[0].most == most(expected[each] for each in ids)
            if other is not ledger:
                other.close()
            assert ledger.totals().most == most(expected.values())
        assert {each: totals_of(ledger, each) for each in IDS} == expected
        group_sizes(folder)
        ledger.close()


def most(costs: Iterable[Cost]) -> Cost:
    found = list(costs)
    return Cost(
        max(each.sent for each in found),
        max(each.embeddings for each in found),
        max(each.weights for each in found),
    )


def test_rounds_write_one_record_for_the_rows_of_each_part(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    for _ in range(3):
        ledger.charge("train", IDS[:6], Cost(1, math.inf))
        ledger.charge("test", IDS[6:], Cost(1, math.inf))
    assert group_sizes(tmp_path) == [3, 6]
    ledger.close()
    ledger = opened(tmp_path)  # with the parts in another order
    ledger.charge("test", IDS[:5:-1], Cost(1, math.inf))
    assert group_sizes(tmp_path) == [3, 6]


def test_rows_of_equal_costs_meet_again(tmp_path: Path) -> None:
    """Else rounds in shuffled parts, or predictions row by row, would end with a group for each."""
    ledger = opened(tmp_path)
    ledger.charge("train", IDS, Cost(1))
    for each in IDS[:8]:
        ledger.charge("predict", [each], Cost(1))
    assert group_sizes(tmp_path) == [1, 8]


# -- files of other versions -------------------------------------------------------------------


def charged(folder: Path) -> Totals:
    ledger = opened(folder)
    ledger.charge("train", IDS[:6], Cost(3, 0.1 + 0.2))
    ledger.charge("test", IDS[6:], Cost(1, math.inf, 0.7))
    ledger.charge("predict", IDS[2:7], Cost(1), Shared((1.0, 0.5, 3), ("labels", b"coins", 2.0)))
    ledger.count(b"run", "rounds")
    totals = ledger.totals()
    ledger.close()
    return totals


def test_a_file_with_a_record_for_each_row_is_read_on(tmp_path: Path) -> None:
    before = charged(tmp_path)
    as_version_0(tmp_path)
    ledger = opened(tmp_path)
    assert ledger.totals() == before
    assert ledger.count(b"run", "rounds") == 2
    assert totals_of(ledger, IDS[2]) == Cost(4, 0.1 + 0.2)
    assert totals_of(ledger, IDS[6]) == Cost(2, math.inf, 0.7)


def test_an_earlier_version_does_not_start_at_zero(tmp_path: Path) -> None:
    charged(tmp_path)
    base = sqlite3.connect(path_of(tmp_path))
    base.executescript(TABLES_0.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
    with pytest.raises(sqlite3.OperationalError, match="view"):
        base.execute("INSERT OR IGNORE INTO rows (name) VALUES (?)", (b"name",))
    base.close()


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    charged(tmp_path)
    base = sqlite3.connect(path_of(tmp_path))
    base.execute("PRAGMA user_version = 1000")
    base.close()
    with pytest.raises(LedgerError, match="a later version"):
        opened(tmp_path)


# -- killed ------------------------------------------------------------------------------------

LEAVING: list[Charge] = [
    ("train", IDS[:6], Cost(1, 0.1)),
    ("test", IDS[6:], Cost(1, 0.1)),
    ("train", IDS[:6], Cost(1, 0.1)),
    ("train", IDS[4:8], Cost(1, 0.1)),
    ("predict", IDS[:1], Cost(1, 0.1)),
]


def _leave(folder: Path, statements: int, left: Connection) -> None:
    """Charge pass after pass, and be killed before a statement."""
    original, counted = sqlite3.connect, itertools.count()

    def connect(*arguments: object, **settings: object) -> sqlite3.Connection:
        base: sqlite3.Connection = original(*arguments, **settings)  # type: ignore[call-overload]
        base.set_trace_callback(
            lambda _: os.kill(os.getpid(), signal.SIGKILL) if next(counted) == statements else None
        )
        return base

    sqlite3.connect = connect  # type: ignore[assignment]
    ledger = opened(folder)
    for each in LEAVING:
        ledger.charge(*each)
        left.send(True)
    left.close()


@pytest.mark.slow
@pytest.mark.parametrize("before", ["no file", "version 0"])
@pytest.mark.parametrize(
    "every", [13, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(300)])]
)
def test_a_killed_party_has_counted_all_that_left(before: str, every: int, tmp_path: Path) -> None:
    for statement in itertools.count(0, every):
        folder = tmp_path / str(statement)
        folder.mkdir()
        counts = dict.fromkeys(IDS, 0)
        if before == "version 0":
            charged(folder)
            as_version_0(folder)
            counts = dict.fromkeys(IDS[:6], 3) | dict.fromkeys(IDS[6:], 1)
            counts |= {each: counts[each] + 1 for each in IDS[2:7]}
        passes, killed = _killed_before(folder, statement)
        for _, ids, cost in LEAVING[:passes]:
            counts |= {each: counts[each] + cost.sent for each in ids}
        ahead = LEAVING[passes][1] if killed and passes < len(LEAVING) else ()
        ledger = opened(folder)
        for each, count in counts.items():
            found = totals_of(ledger, each).sent
            assert count <= found <= count + (each in ahead), (statement, each)
        ledger.close()
        if not killed:
            assert passes == len(LEAVING)
            break


def _killed_before(folder: Path, statement: int) -> tuple[int, bool]:
    """Return how many passes left before the kill, and whether there was one."""
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_leave, args=(folder, statement, there))
    process.start()
    there.close()
    passes = 0
    while True:
        try:
            passes += here.recv()
        except EOFError:
            break
    process.join()
    return passes, process.exitcode != 0
