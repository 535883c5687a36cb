"""A task from end to end in a few seconds: what it returns and leaves behind."""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from heterofed import HeteroNNHostScheduler
from heterofed.alignment import default_split
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run

COMMON = IDS[10:50]


def test_run_trains_and_leaves_results(home: Path, tmp_path: Path) -> None:
    host, collaborator = run(TinyHost(tmp_path), TinyCollaborator(tmp_path))

    folder = tmp_path / "tiny" / "alice"
    assert (host.rounds, host.ids, host.folder) == (2, len(COMMON), folder)
    quality = pd.read_csv(folder / "quality.csv")
    assert list(quality.columns) == ["round", "accuracy"]
    assert quality["round"].tolist() == [1, 2]
    assert quality["accuracy"].dtype == float
    train = pd.read_csv(folder / "train.csv")
    assert list(train.columns) == ["round", "loss"]
    assert train["loss"].is_monotonic_decreasing

    assert set(host.models) == {"feature_model", "infer_model"}
    assert set(collaborator.models) == {"feature_model"}
    state = torch.load(collaborator.models["feature_model"], weights_only=True)
    assert state["weight"].shape == (4, 3)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == host.to_dict()
    assert {"join", "prepare", "psi", "split", "train", "test", "finish"} <= set(summary["phases"])
    assert host.bytes_sent == collaborator.bytes_received
    assert host.bytes_received == collaborator.bytes_sent


def test_parties_agree_on_a_split_of_the_intersection(home: Path, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Looks(TinyCollaborator):
        def on_round_end(self) -> None:
            seen["bob"] = (self.train_ids, self.test_ids, self.current_round, self.task_id)

    host = TinyHost(tmp_path)
    run(host, Looks(tmp_path))
    train, test = default_split(COMMON)
    assert seen["bob"] == (sorted(train), sorted(test), 2, "tiny")
    assert (host.train_ids, host.test_ids) == (sorted(train), sorted(test))


def test_second_run_keeps_the_first_one_aside(home: Path, tmp_path: Path) -> None:
    for _ in range(2):
        outcomes = run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
        assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    names = sorted(path.name for path in (tmp_path / "tiny").iterdir())
    assert names == ["alice", "alice.1", "bob", "bob.1"]
    assert (tmp_path / "tiny" / "alice.1" / "summary.json").exists()


def test_console_handler_is_taken_off_again(home: Path, tmp_path: Path) -> None:
    logger = logging.getLogger("heterofed")
    before = (list(logger.handlers), logger.level)
    run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    assert (list(logger.handlers), logger.level) == before


def test_users_may_set_any_public_name(home: Path, tmp_path: Path) -> None:
    class Busy(TinyHost):
        def __init__(self, results: Path) -> None:
            super().__init__(results)
            names = inspect.signature(HeteroNNHostScheduler.__init__).parameters
            for name in (*names, "device", "train_ids", "task_id", "plan", "party", "batch_size"):
                setattr(self, name, "mine")

        def on_round_end(self) -> None:
            assert vars(self)["train_ids"] == self.train_ids == vars(self)["seed"]

    host, collaborator = run(Busy(tmp_path), TinyCollaborator(tmp_path))
    assert (host.rounds, collaborator.rounds) == (2, 2)


def test_runs_are_repeatable(home: Path, tmp_path: Path) -> None:
    losses = []
    for folder in ("one", "two"):
        host, _ = run(
            TinyHost(tmp_path / folder, seed=1), TinyCollaborator(tmp_path / folder, seed=1)
        )
        losses.append(pd.read_csv(host.metrics["train"])["loss"].tolist())
    assert losses[0] == losses[1]
