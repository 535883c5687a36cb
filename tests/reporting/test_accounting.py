"""What a task costs is counted once, by phase, party and direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofed.events import Event, PhaseEnded
from heterofed.reporting.costs import COLUMNS, Account, shares
from tests.e2e.processes import parties
from tests.e2e.tiny import TinyCollaborator, TinyHost, run

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


def costs_of(folder: Path) -> dict[tuple[str, str, str], dict[str, float]]:
    """What `comm.csv` says, by phase, party and direction."""
    table = pd.read_csv(folder / "comm.csv")
    assert tuple(table.columns) == COLUMNS
    keys = zip(table["phase"], table["party"], table["direction"], strict=True)
    rows: list[Any] = table.drop(columns=list(COLUMNS[:3])).to_dict("records")
    return dict(zip(keys, rows, strict=True))


def test_seconds_are_counted_once() -> None:
    account = Account("bank")
    account.computed("train", 2.0)
    account.encoded("train", "shop", "sent", 0.5)
    account.waited("train", "shop", "received", 1.0)
    account.moved("train", "shop", "sent", 100, messages=1)
    account.moved("train", "shop", "sent", 50, messages=0)
    account.reported("train", "shop", 1.5)
    assert account.counted == 3.5
    assert [tuple(row.values()) for row in account.table()] == [
        ("train", "bank", "own", 0, 0, 0.0, 0.0, 2000.0),
        ("train", "shop", "sent", 1, 150, 500.0, 0.0, 0.0),
        ("train", "shop", "received", 0, 0, 0.0, 1000.0, 1500.0),
    ]


def test_shares_are_told_largest_first() -> None:
    waits = {"shop": 3.1, "clinic": 0.01}
    line = shares(10.0, 5.5, 0.4, waits)
    assert line == "own compute 55 %, waiting for shop 31 %, encoding 4 %"
    assert shares(0.0, 0.0, 0.0, {}) == ""


def test_a_run_leaves_its_costs_and_names_the_slowest_party(home: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    # In a process of its own: parties that share one wait for each other's hooks.
    with parties(home, tmp_path) as others:
        slow = others.start("-m", "tests.e2e.tiny", "collaborator", "tiny", str(tmp_path), "slow")
        host, quick = run(
            TinyHost(tmp_path, collaborators=2, callbacks=[events.append]),
            TinyCollaborator(tmp_path, "quick"),
        )
        assert slow.wait() == 0, slow.output
    costs = costs_of(host.folder)
    batches = host.rounds * 3
    # BeginTrain once a round, then Gradients for each batch.
    sent, received = costs["train", "bob", "sent"], costs["train", "bob", "received"]
    assert sent["messages"] == host.rounds + batches
    assert received["messages"] == host.rounds + batches
    assert received["wait_ms"] > 300
    assert received["compute_ms"] > 900  # as it reported
    assert costs["train", "quick", "received"]["wait_ms"] < received["wait_ms"]
    assert costs["train", "alice", "own"]["compute_ms"] > 0
    for direction, total in (
        ("sent", host.phases["train"].bytes_sent),
        ("received", host.phases["train"].bytes_received),
    ):
        assert total == sum(costs["train", name, direction]["bytes"] for name in ("bob", "quick"))

    cost = host.phases["train"]
    assert cost.slowest == "bob"
    assert cost.waits["bob"] + cost.compute + cost.encode <= cost.seconds
    assert "waiting for bob" in host.summary()
    assert "slowest party: bob" in host.summary()
    ended = [each for each in events if isinstance(each, PhaseEnded) and each.phase == "train"]
    assert sum(each.waits["bob"] for each in ended) == pytest.approx(cost.waits["bob"])

    assert costs_of(tmp_path / "tiny" / "bob")["train", "bob", "own"]["compute_ms"] > 900
    assert quick.phases["train"].waits["alice"] > 0.3


def test_a_failed_end_leaves_its_costs(home: Path, tmp_path: Path) -> None:
    class Fails(TinyHost):
        def train_a_batch(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError

    run(Fails(tmp_path), TinyCollaborator(tmp_path))
    for party in ("alice", "bob"):
        costs = pd.read_csv(tmp_path / "tiny" / party / "comm.csv")
        assert {"psi", "train"} <= set(costs["phase"])
