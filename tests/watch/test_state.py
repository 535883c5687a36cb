"""What a run looks like now, out of its journal: pure, so every order of facts can be tried."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from heterofed.reporting import journal_records as records
from heterofed.watch.run import Seen
from heterofed.watch.state import RunState
from heterofed.watch.tail import MAX_LINE, Tail
from heterofed.watch.timeline import rows
from heterofed.watch.words import spoken, standing

BEGAN = records.Began(at=1, task="t", party="bank", host="bank", collaborators=["shop", "phone"])


def after(*some: records.Record) -> RunState:
    state = RunState()
    state.take_all([BEGAN, *some])
    return state


def ended(number: int, loss: float | None = 0.5) -> records.Round:
    return records.Round(at=10 + number, round=number, rounds=9, seconds=2, loss=loss)


def test_parties_are_here_awaited_lost_and_here_again() -> None:
    state = after()
    assert {name: each.presence for name, each in state.parties.items()} == {
        "shop": "here",
        "phone": "here",
    }
    state.take(records.Waiting(at=20, parties=["shop"], seconds=10))
    assert (state.parties["shop"].presence, state.parties["shop"].since) == ("awaited", 10)
    state.take(records.Phase(at=21, phase="test", round=1))
    assert state.parties["shop"].presence == "here"
    state.take(records.Lost(at=22, party="shop", seconds=60))
    state.take(records.Phase(at=23, phase="join"))
    assert (state.parties["shop"].presence, state.parties["shop"].losses) == ("lost", 1)
    state.take(BEGAN)
    assert state.parties["shop"].presence == "here"
    state.take(records.Ended(at=30, error="PeerLostError", about="phone"))
    assert state.parties["phone"].presence == "gone"
    assert (state.ended, state.error) == (True, "PeerLostError")


def test_who_is_no_party_of_the_task_is_not_shown() -> None:
    state = after(
        records.Waiting(at=2, parties=["the Host", "a visitor"], seconds=1),
        records.Lost(at=3, party="a party", seconds=1),
    )
    assert set(state.parties) == {"shop", "phone"}


def test_rounds_that_are_trained_again_replace_those_before() -> None:
    state = after(*map(ended, range(1, 6)))
    state.take(records.Resumed(at=40, round=3))
    assert (set(state.rounds), state.resumes) == ({1, 2, 3}, 1)
    state.take(ended(4, 0.1))
    assert state.rounds[4].loss == 0.1
    state.take(records.Phase(at=50, phase="psi"))  # the run begins anew
    assert not state.rounds


def test_costs_add_up_and_a_round_is_expected_to_be_as_long_as_the_last() -> None:
    costs = {"shop": records.Costs(sent=5, received=7, wait=0.5, compute=0.25)}
    done = records.Done(
        at=5, phase="train", seconds=2, sent=5, received=7, units=30, compute=1, parties=costs
    )
    state = after(records.Phase(at=3, phase="train", round=1), done, done)
    train = state.phases["train"]
    assert (train.seconds, train.sent, train.received, train.wait, train.times) == (4, 10, 14, 1, 2)
    assert (state.parties["shop"].wait, state.parties["shop"].compute) == (1, 0.5)
    state.take(records.Phase(at=9, phase="train", round=2))
    assert state.expected_units() == 30


def test_a_batch_is_rows_of_bars_within_it() -> None:
    spans = [
        records.Span("wait", "shop", 0.1, 0.1),
        records.Span("wait", "shop", 0.2, 0.1),
        records.Span("received", "shop", 0.2, 0.0, 900),
        records.Span("elsewhere", "shop", 0.2, 7.0),
        records.Span("compute", "bank", 1.0, 0.5),
        records.Span("sent", "shop", 99.0, 0.0, 100),
    ]
    drawn = rows(records.Batch(at=1, round=1, seconds=1.0, spans=spans), "bank")
    labels = {each.label: each for each in drawn}
    assert len(labels["bank waits for shop"].bars) == 1  # both waits are one
    assert labels["shop to bank"].bytes == 900
    assert {"bank computes", "shop computes, as it reports", "bank to shop"} < labels.keys()
    for row in drawn:
        for bar in row.bars:
            assert 0 <= bar.x <= bar.x + bar.width <= 100.001


@pytest.mark.parametrize("over", [False, True])
def test_words_for_how_a_party_stands(over: bool) -> None:
    state = after(ended(1), records.Lost(at=20, party="shop", seconds=60))
    seen = Seen("t", "bank", life="failed" if over else "running", state=state)
    said, tone = standing(state.parties["shop"], seen, now=25)
    assert (said, tone) == ("lost" if over else "lost 5.0 s ago; waited for", "bad")
    assert spoken(seen).startswith("Round 1 of 9 ended: loss 0.5. shop is lost.")


def test_a_journal_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / records.FILE
    tail = Tail(path)
    assert not tail.advance()
    line = msgspec.json.encode(BEGAN) + b"\n"
    path.write_bytes(line[:20])
    assert tail.advance()
    assert not tail.state.task
    with path.open("ab") as file:
        file.write(line[20:] + msgspec.json.encode(ended(1)) + b"\n")
    assert tail.advance()
    assert (tail.state.task, set(tail.state.rounds)) == ("t", {1})
    assert not tail.advance()
    path.write_bytes(line)  # another run's, or cut
    assert tail.advance()
    assert not tail.state.rounds
    path.unlink()
    assert tail.advance()
    assert not tail.state.task


HOSTILE = [
    b"null",
    b"[]",
    b'{"kind":"nothing","at":1}',
    b'{"kind":"round","at":1,"round":-1}',
    b'{"kind":"round","at":1e400,"round":1}',
    b'{"kind":"round","at":1,"round":1,"loss":1e308}',
    b'{"kind":"began","at":1,"task":"t","party":"p","host":"h","collaborators":["x"]' + b" " * 9,
    b'{"kind":"lost","at":1,"party":"' + b"x" * 301 + b'","seconds":1}',
    b"[" * 100_000,
    b"\xff\xfe",
    b"x" * (MAX_LINE + 10),
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_a_line_that_does_not_decode_is_skipped(tmp_path: Path, line: bytes) -> None:
    good = msgspec.json.encode(BEGAN) + b"\n"
    (tmp_path / records.FILE).write_bytes(line + b"\n" + good + line)
    tail = Tail(tmp_path / records.FILE)
    tail.advance()
    assert tail.state.task == "t"
    assert not tail.state.rounds


def test_a_planted_link_or_pipe_is_not_followed(tmp_path: Path) -> None:
    import os

    (tmp_path / "secret").write_bytes(msgspec.json.encode(BEGAN) + b"\n")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        tail = Tail(tmp_path / name)
        assert not tail.advance()
        assert not tail.state.task


def test_rounds_of_a_collaborator_are_those_that_were_completed() -> None:
    """The Host alone notes rounds; the one that goes on is not one that was trained."""
    state = after(records.Phase(at=2, phase="train", round=1))
    assert state.completed == 0
    state.take(records.Phase(at=3, phase="checkpoint", round=1))
    state.take(records.Phase(at=4, phase="train", round=2))
    assert state.completed == 1
    state.take(records.Resumed(at=5, round=1))
    assert state.completed == 1
    for number, phase in enumerate(("train", "test", "checkpoint", "finish")):
        state.take(records.Phase(at=6 + number, phase=phase, round=2 if phase != "finish" else 0))
    assert state.completed == 2
    state.take(records.Phase(at=20, phase="psi"))
    assert state.completed == 0


def test_a_host_whose_name_came_late_is_one_party() -> None:
    costs = {"the Host": records.Costs(received=5, wait=0.5)}
    for joined_first in (True, False):
        state, done = RunState(), records.Done(at=1, phase="join", seconds=1, parties=costs)
        began = records.Began(at=1, task="t", party="shop", host="bank", collaborators=["shop"])
        state.take_all([done, began] if joined_first else [began, done])
        assert {name: each.name for name, each in state.parties.items()} == {"bank": "bank"}
        assert state.parties["bank"].received == 5
