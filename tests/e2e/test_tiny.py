"""A task from end to end in a few seconds: what it returns and leaves behind."""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from heterofed import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.compute.alignment import default_split
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


@pytest.mark.slow
def test_second_run_keeps_the_first_one_aside(home: Path, tmp_path: Path) -> None:
    for _ in range(2):
        outcomes = run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
        assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    names = sorted(path.name for path in (tmp_path / "tiny").iterdir())
    assert names == ["alice", "alice.1", "bob", "bob.1"]
    assert (tmp_path / "tiny" / "alice.1" / "summary.json").exists()


@pytest.mark.slow
def test_console_handler_is_taken_off_again(home: Path, tmp_path: Path) -> None:
    logger = logging.getLogger("heterofed")
    before = (list(logger.handlers), logger.level)
    run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    assert (list(logger.handlers), logger.level) == before


def public_names(cls: type) -> list[str]:
    """Whatever of ours a user's own attribute may shadow: settings, values shown, helpers."""
    settings = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    ours = [name for name in dir(cls) if not name.startswith("_") and not is_hook(cls, name)]
    spare = ["device", "plan", "party", "MODELS", "run", "batch"]
    return sorted({*settings, *ours, *spare} - {"self", "launch_task"})


def is_hook(cls: type, name: str) -> bool:
    return (getattr(cls, name).__doc__ or "").startswith("Hook")


def test_users_may_set_any_public_name(home: Path, tmp_path: Path) -> None:
    used = ("infer_model", "optimizer", "get_metrics")  # by the hooks of the tiny parties
    kept: list[tuple[str, Any]] = []

    def take_all(scheduler: Any, cls: type) -> None:
        for name in public_names(cls):
            if name not in used:
                setattr(scheduler, name, "mine" if name != "batch" else 16)

    class Host(TinyHost):
        def __init__(self, results: Path) -> None:
            super().__init__(results)
            take_all(self, HeteroNNHostScheduler)

        def on_round_end(self) -> None:
            kept.append(("alice", {vars(self)[name] for name in ("train_ids", "seed", "MODELS")}))

    class Collaborator(TinyCollaborator):
        def __init__(self, results: Path) -> None:
            super().__init__(results)
            take_all(self, HeteroNNCollaboratorScheduler)

        def on_round_end(self) -> None:
            kept.append(("bob", {vars(self)[name] for name in ("train_ids", "seed", "MODELS")}))

    host, collaborator = run(Host(tmp_path), Collaborator(tmp_path))
    assert (host.rounds, collaborator.rounds) == (2, 2)
    assert sorted(name for name, _ in kept) == ["alice"] * 2 + ["bob"] * 2
    assert all(values == {"mine"} for _, values in kept)


@pytest.mark.slow
def test_runs_are_repeatable(home: Path, tmp_path: Path) -> None:
    losses = []
    for folder in ("one", "two"):
        host, _ = run(
            TinyHost(tmp_path / folder, seed=1), TinyCollaborator(tmp_path / folder, seed=1)
        )
        losses.append(pd.read_csv(host.metrics["train"])["loss"].tolist())
    assert losses[0] == losses[1]
