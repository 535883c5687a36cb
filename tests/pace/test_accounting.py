"""What a task costs is counted once, by phase, party and direction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofed.accounting import COLUMNS, Account, shares
from heterofed.events import Event, PhaseEnded
from tests.e2e.tiny import TinyCollaborator, TinyHost, run

pytestmark = pytest.mark.usefixtures("home")


class Sleepy(TinyCollaborator):
    """Takes its time in a hook."""

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for item in super().iterate_train_feature(feature_model, train_ids):
            time.sleep(1.0)  # longer than whatever else keeps the Host busy meanwhile
            yield item


def costs_of(result: Any) -> dict[tuple[str, str, str], dict[str, float]]:
    """What `comm.csv` says, by phase, party and direction."""
    table = pd.read_csv(result.folder / "comm.csv")
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


def test_a_run_leaves_its_costs_and_names_the_slowest_party(tmp_path: Path) -> None:
    events: list[Event] = []
    host, slow, quick = run(
        TinyHost(tmp_path, collaborators=2, callbacks=[events.append]),
        Sleepy(tmp_path, "slow"),
        TinyCollaborator(tmp_path, "quick"),
    )
    costs = costs_of(host)
    batches = host.rounds * 3
    # BeginTrain once a round, then Gradients and BatchDone for each batch.
    sent, received = costs["train", "slow", "sent"], costs["train", "slow", "received"]
    assert sent["messages"] == host.rounds + 2 * batches
    assert received["messages"] == host.rounds + batches
    assert received["wait_ms"] > 300
    assert received["compute_ms"] > 900  # as it reported
    assert costs["train", "quick", "received"]["wait_ms"] < received["wait_ms"]
    assert costs["train", "alice", "own"]["compute_ms"] > 0
    for direction, total in (
        ("sent", host.phases["train"].bytes_sent),
        ("received", host.phases["train"].bytes_received),
    ):
        assert total == sum(costs["train", name, direction]["bytes"] for name in ("slow", "quick"))

    cost = host.phases["train"]
    assert cost.slowest == "slow"
    assert cost.waits["slow"] + cost.compute + cost.encode <= cost.seconds
    assert "waiting for slow" in host.summary()
    assert "slowest party: slow" in host.summary()
    ended = [each for each in events if isinstance(each, PhaseEnded) and each.phase == "train"]
    assert sum(each.waits["slow"] for each in ended) == pytest.approx(cost.waits["slow"])

    assert costs_of(slow)["train", "slow", "own"]["compute_ms"] > 300
    assert quick.phases["train"].waits["alice"] > 0.3


def test_a_failed_end_leaves_its_costs(home: Path, tmp_path: Path) -> None:
    class Fails(TinyHost):
        def train_a_batch(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError

    run(Fails(tmp_path), TinyCollaborator(tmp_path))
    for party in ("alice", "bob"):
        costs = pd.read_csv(tmp_path / "tiny" / party / "comm.csv")
        assert {"psi", "train"} <= set(costs["phase"])
