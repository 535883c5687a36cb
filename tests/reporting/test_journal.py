"""`events.jsonl`: each fact once, bounded, private, and never a reason to end a run."""

from __future__ import annotations

import math
import stat
from pathlib import Path

import msgspec
import pytest

from heterofed import simulate
from heterofed.events import (
    PartyLost,
    PhaseBegan,
    PhaseEnded,
    Progressed,
    Resumed,
    RoundEnded,
    StillWaiting,
    TaskBegan,
    TaskEnded,
)
from heterofed.reporting import journal_records as records
from heterofed.reporting.costs import Account
from heterofed.reporting.journal import Journal
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run

BEGAN = ("task", "bank", "bank", ("shop",), "ab" * 16)


def read(folder: Path) -> list[records.Record]:
    decoder = msgspec.json.Decoder(records.AnyRecord)
    return [decoder.decode(each) for each in (folder / records.FILE).read_bytes().splitlines()]


def kinds(folder: Path) -> list[str]:
    return [type(each).__name__ for each in read(folder)]


def test_each_event_is_a_record(tmp_path: Path) -> None:
    account = Account("bank")
    journal = Journal(account)
    journal(PhaseBegan("join"))
    assert not any(tmp_path.iterdir())  # whose folder it is, nobody knows yet
    journal(PhaseEnded("join", 0.5, 10, 20))
    journal(TaskBegan(*BEGAN, tmp_path))
    journal(PhaseBegan("train", unit="batches", round=1))
    account.moved("train", "shop", "received", 300, messages=1)
    account.waited("train", "shop", "received", 0.25)
    journal(Progressed(1))
    journal(Progressed(7))
    account.arrived("shop", 1 << 20, 0.5)
    journal(PhaseEnded("train", 2.0, 5, 300, 1, 0.5, 0.1, {"shop": 0.25}))
    journal(StillWaiting(("shop",), 10.0, "settings"))
    journal(RoundEnded(1, 3, 2.5, math.nan, {"round": 1, "auc": 0.7, "ks": math.inf}))
    journal(PartyLost("shop", math.inf))
    journal(Resumed(1, 4))
    journal(TaskEnded("PeerLostError", "shop"))
    assert kinds(tmp_path) == [
        *("Phase", "Done", "Began", "Phase", "Batch", "Done", "Link"),
        *("Waiting", "Round", "Lost", "Resumed", "Ended"),
    ]
    done, link = read(tmp_path)[5:7]
    assert isinstance(done, records.Done)
    assert (done.units, done.parties["shop"]) == (7, records.Costs(received=300, wait=0.25))
    assert isinstance(link, records.Link)
    assert (link.bytes, link.seconds) == (1 << 20, 0.5)
    ended = read(tmp_path)[8]
    assert isinstance(ended, records.Round)
    assert (ended.loss, ended.metrics) == (None, {"auc": 0.7, "ks": None})
    assert b"settings" not in (tmp_path / records.FILE).read_bytes()


def test_one_batch_of_a_round_is_traced(tmp_path: Path) -> None:
    account = Account("bank")
    journal = Journal(account)
    journal(TaskBegan(*BEGAN, tmp_path))
    journal(PhaseBegan("train", round=1))
    account.computed("train", 9.0)  # the first batch also has what the round begins with
    journal(Progressed(1))
    account.waited("train", "shop", "received", 0.2)
    account.moved("train", "shop", "received", 500, messages=1)
    account.reported("train", "shop", 0.1)
    journal(Progressed(2))
    account.computed("train", 5.0)
    journal(Progressed(3))
    batch = read(tmp_path)[-1]
    assert isinstance(batch, records.Batch)
    assert [(each.work, each.party, each.bytes) for each in batch.spans] == [
        ("wait", "shop", 0),
        ("received", "shop", 500),
        ("elsewhere", "shop", 0),
    ]
    for _ in range(2 * records.MAX_SPANS):
        account.computed("train", 0.1)
    assert len(kinds(tmp_path)) == 3


def test_it_is_bounded(tmp_path: Path) -> None:
    journal = Journal(Account("bank"), room=2000)
    journal(TaskBegan(*BEGAN, tmp_path))
    for number in range(1, 100):
        journal(PhaseBegan("train", round=number))
        journal(PhaseEnded("train", 1.0, 1, 1, number))
        journal(RoundEnded(number, 99, 1.0, 0.5))
    size = (tmp_path / records.FILE).stat().st_size
    assert 4000 < size < 4300
    found = kinds(tmp_path)
    assert found[-8:] == ["Round"] * 8


@pytest.mark.usefixtures("home")
def test_a_run_keeps_one_and_it_holds_no_secret(tmp_path: Path) -> None:
    host = TinyHost(tmp_path, psi_protocol="ecdh")
    heard: list[object] = []
    simulate(host, [TinyCollaborator(tmp_path, callbacks=[heard.append])], task_id="tiny")
    for party in ("alice", "bob"):
        path = tmp_path / "tiny" / party / records.FILE
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found = kinds(path.parent)
        assert found.count("Began") == 1
        assert found.count("Batch") == 2  # one of each round
        assert found[-1] == "Ended"
        assert not any(each in path.read_text() for each in IDS)
    rounds = [each for each in read(tmp_path / "tiny" / "alice") if isinstance(each, records.Round)]
    assert [(each.round, each.rounds, "accuracy" in each.metrics) for each in rounds] == [
        (1, 2, True),
        (2, 2, True),
    ]


@pytest.mark.usefixtures("home")
def test_one_that_cannot_be_written_costs_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Host(TinyHost):
        def on_round_end(self) -> None:
            path = tmp_path / "tiny" / "alice" / records.FILE
            if path.is_file():
                path.unlink()
                path.mkdir()

    simulate(Host(tmp_path, psi_protocol="ecdh"), [TinyCollaborator(tmp_path)], task_id="tiny")
    assert len([each for each in caplog.messages if f"{records.FILE} failed" in each]) == 1


@pytest.mark.usefixtures("home")
def test_the_text_of_an_error_is_not_in_it(tmp_path: Path) -> None:
    class Host(TinyHost):
        def train_a_batch(self, feature_projection: object, labels: object) -> object:
            raise ValueError(f"patient {IDS[20]}")

    run(Host(tmp_path), TinyCollaborator(tmp_path))
    for party, error, about in (("alice", "ValueError", ""), ("bob", "PeerHookFailed", "alice")):
        text = (tmp_path / "tiny" / party / records.FILE).read_text()
        assert "patient" not in text
        ended = read(tmp_path / "tiny" / party)[-1]
        assert isinstance(ended, records.Ended)
        if party == "alice":
            assert ended.error == error
        assert ended.about == about
