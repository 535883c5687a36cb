"""The ledger only grows, and a pass is charged before its rows leave: for any hook, any order."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from heterofed.errors import ConfigError, LedgerError
from heterofed.privacy.passes import NOBODY, Pass
from heterofed.privacy.release_costs import Cost, Shared, Totals
from heterofed.runs.settings import ReleaseLimits
from tests.privacy.ledgers import opened

IDS = [f"id-{number}" for number in range(7)]


# -- passes ------------------------------------------------------------------------------------


class Hook:
    """Any hook: yields some of the ids, or others, named or not, in any order and number."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.named = self.random.random() < 0.7
        self.kinds = self.random.sample(["in order", "shuffled", "again", "foreign"], 2)

    def batches(self) -> Sequence[list[str]]:
        rows = list(IDS)
        if "shuffled" in self.kinds:
            self.random.shuffle(rows)
        if "again" in self.kinds:
            rows += self.random.choices(IDS, k=self.random.randint(0, 15))
        if "foreign" in self.kinds:
            rows += self.random.choices(["x", "y"], k=self.random.randint(0, 4))
        size = self.random.randint(1, 5)
        return [rows[start : start + size] for start in range(0, len(rows), size)]


@pytest.mark.parametrize("seed", range(60))
def test_no_row_leaves_before_it_is_charged(seed: int) -> None:
    hook, charged, left = Hook(seed), Counter[str](), Counter[str]()
    passing = Pass("train", IDS)
    for batch in hook.batches():
        for ids, times in passing.takes(batch if hook.named else None, len(batch)):
            for each in set(ids):
                charged[each] += times
        left.update(batch)
        if hook.named:
            assert all(charged[each] >= count for each, count in left.items())
        else:  # nobody knows whose rows they are; as many as were charged, whosever
            assert charged.total() >= left.total()
    if hook.named:
        exact = left | Counter(IDS)  # what was paid ahead is paid
        assert charged == exact


def test_rows_that_are_drawn_several_times_are_charged_ahead() -> None:
    passing = Pass("train", IDS)
    assert list(passing.takes(["id-3", "id-3", "id-0"], 3, times=3)) == [(IDS, 3)]
    assert list(passing.takes(["id-3"], 1)) == []
    assert list(passing.takes(["id-3"], 1)) == [(["id-3"], 1)]


def test_rows_of_a_hook_without_ids_are_charged_to_nobody() -> None:
    passing = Pass("test", [])
    assert list(passing.takes(None, 3)) == [([NOBODY], 1), ([NOBODY], 2)]


# -- the file ----------------------------------------------------------------------------------


def test_it_counts_row_by_row_over_restarts(tmp_path: Path) -> None:
    for _ in range(2):
        ledger = opened(tmp_path)
        ledger.charge("train", IDS[:4], Cost(1, 0.5, 0.25))
        ledger.charge("test", IDS[3:], Cost(1, 0.5))
        ledger.charge(
            "predict", IDS[:1], Cost(2, 1.0), Shared((1.0, 0.5, 3), ("labels", b"coins", 2.0))
        )
        ledger.close()
    totals = opened(tmp_path).totals()
    assert totals == Totals(Cost(6, 3.0, 0.5), ((1.0, 0.5, 6),), (("labels", 2.0),))
    assert opened(tmp_path, "carol").totals() == Totals(Cost(), (), ())


def test_infinity_stays(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.charge("train", IDS[:1], Cost(1, float("inf")))
    ledger.charge("train", IDS[:1], Cost(1, 1.0))
    assert ledger.totals().most == Cost(2, float("inf"))


def test_what_is_refused_is_not_counted(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.charge("train", IDS, Cost(1))

    def refuse(totals: Totals) -> None:
        assert totals.most.sent == 3
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):
            ledger.charge(
                "train", IDS, Cost(2), Shared((1.0, 1.0, 1), ("labels", b"c", 1.0)), refuse
            )
    assert ledger.totals() == Totals(Cost(1), (), ())


def test_a_limit_is_asked_about_the_rows_that_are_to_leave(tmp_path: Path) -> None:
    ledger, seen = opened(tmp_path), list[Totals]()
    ledger.charge("predict", IDS[:1], Cost(5))
    ledger.charge("train", IDS[1:], Cost(1), check=seen.append)
    assert [each.most.sent for each in seen] == [1]


def test_events_are_counted_by_run(tmp_path: Path) -> None:
    assert [opened(tmp_path).count(b"a", "back to round 1") for _ in range(3)] == [1, 2, 3]
    assert opened(tmp_path).count(b"b", "back to round 1") == 1
    assert opened(tmp_path).count(b"a", "rounds") == 1


def _charge(folder: Path) -> None:
    ledger = opened(folder)
    for _ in range(10):
        ledger.charge("train", IDS, Cost(1))


def test_processes_take_nothing_from_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_charge, args=(tmp_path,)) for _ in range(3)]
    for each in others:
        each.start()
    for each in others:
        each.join()
    assert opened(tmp_path).totals().most.sent == 30


def test_it_is_private_and_holds_no_id(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ledger = opened(tmp_path)
        ledger.charge("train", IDS, Cost(1))
    finally:
        os.umask(before)
    paths = list((tmp_path / "releases").iterdir())  # the file, and its log while it is open
    assert paths
    for path in paths:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert not any(each.encode() in path.read_bytes() for each in IDS)


def _charge_and_die(home: Path) -> None:
    opened(home).charge("train", IDS, Cost(1))
    os._exit(1)  # as a kill: nothing is closed


def test_what_a_killed_party_has_counted_stays(tmp_path: Path) -> None:
    opened(tmp_path).charge("train", IDS, Cost(1))
    killed = multiprocessing.get_context("fork").Process(target=_charge_and_die, args=(tmp_path,))
    killed.start()
    killed.join()
    assert opened(tmp_path).totals().most.sent == 2


def test_a_charge_waits_for_the_disk_once(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    (path,) = (tmp_path / "releases").glob("*.sqlite")
    before = path.read_bytes()
    ledger.charge("train", IDS, Cost(1))
    assert path.read_bytes() == before, "a charge is appended to the log"
    ledger.close()
    (left,) = (tmp_path / "releases").iterdir()
    assert left == path
    assert left.read_bytes() != before


@pytest.mark.parametrize("damage", ["torn", "link", "folder"])
def test_what_cannot_be_read_is_refused_and_named(damage: str, tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.charge("train", IDS, Cost(1))
    ledger.close()
    (path,) = (tmp_path / "releases").iterdir()
    if damage == "torn":
        path.write_bytes(b"x" * 5000)
    else:
        path.unlink()
    if damage == "link":
        path.symlink_to(tmp_path / "elsewhere")
    if damage == "folder":
        path.mkdir()
    with pytest.raises(LedgerError, match="restore it") as told:
        opened(tmp_path)
    assert str(path) in str(told.value)
    assert not (tmp_path / "elsewhere").exists()


# -- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (ReleaseLimits(max_releases_per_row=-1), "max_releases_per_row=-1"),
        (ReleaseLimits(max_releases_per_row=True), "max_releases_per_row=True"),
        (ReleaseLimits(max_rollbacks=-1), "max_rollbacks=-1"),
        (ReleaseLimits(max_epsilon=0), "max_epsilon=0"),
        (ReleaseLimits(max_epsilon=float("nan")), "max_epsilon=nan"),
        (ReleaseLimits(max_epsilon=2.0), "needs a defence"),
    ],
)
def test_limits_that_cannot_work(limits: ReleaseLimits, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        limits.check(defended=words != "needs a defence")
