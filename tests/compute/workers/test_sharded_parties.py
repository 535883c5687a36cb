"""A party of processes that divide its feature model is like one of a single process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim

from heterofed.compute.workers.sharding import divide
from heterofed.errors import ConfigError, RankLostError, TaskAborted
from tests.compute.workers.ranks import ended, party, start
from tests.compute.workers.test_ranks import ROUNDS, host, trained
from tests.e2e.on_device import PlacedCollaborator, finished, joined
from tests.e2e.test_gpu import close
from tests.e2e.tiny import run

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("home")]


class Clipping(PlacedCollaborator):
    """A Collaborator with another optimizer and clipped gradients."""

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.Adam(feature_model.parameters(), lr=0.01)

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        assert self.feature_model is not None
        self.feature_optimizer.zero_grad()
        features.backward(gradients)
        nn.utils.clip_grad_norm_(self.feature_model.parameters(), 0.1)
        self.feature_optimizer.step()


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_collaborator_divides_its_model(ranks: int, tmp_path: Path) -> None:
    others = start(ranks, "collaborator", tmp_path, "shard")
    mine = host(tmp_path)
    finished(mine)
    assert all("rounds 4" in each for each in ended(others))
    close(trained(tmp_path), joined(mine.train_ids, ROUNDS, "cpu"))


@pytest.mark.parametrize("steps", [0, 2])
def test_a_host_divides_its_model(steps: int, tmp_path: Path) -> None:
    others = start(2, "host", tmp_path, "shard", *(["stale"] if steps else []))
    shop = PlacedCollaborator(tmp_path)
    finished(shop)
    assert all("rounds 4" in each for each in ended(others))
    wanted = joined(shop.train_ids, ROUNDS, "cpu")
    if steps:
        finished(host(tmp_path / "one", max_staleness=steps), PlacedCollaborator(tmp_path / "one"))
        wanted = trained(tmp_path / "one")
    close(trained(tmp_path), wanted)


def test_a_party_starts_the_processes_itself_and_clips(tmp_path: Path) -> None:
    finished(host(tmp_path / "one"), Clipping(tmp_path / "one"))
    finished(host(tmp_path), Clipping(tmp_path, feature_workers=2, shard_feature_model=True))
    close(trained(tmp_path), trained(tmp_path / "one"))


@pytest.mark.parametrize("then", [["shard"], []])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_lost_process_is_named_and_the_run_resumes(
    how: str, then: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_LAST_RANK", str(tmp_path / "last"))
    others = start(2, "collaborator", tmp_path, how, "shard")
    (outcome,) = run(host(tmp_path, calculation_timeout=8))
    assert isinstance(outcome, RankLostError), repr(outcome)
    assert isinstance(outcome, TaskAborted)
    others[1].kill()
    first, _ = ended(others)
    assert "error RankLostError rank 1 of the 2 processes of this party" in first
    others = start(3, "collaborator", tmp_path, *then)  # also undivided, and in another number
    mine = host(tmp_path)
    finished(mine)
    assert all("rounds 4" in each for each in ended(others))
    close(trained(tmp_path), joined(mine.train_ids, ROUNDS, "cpu"))


def test_an_operation_that_fails_at_another_rank_ends_it(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RankLostError, match="rank 2 of the 3"), party(3) as exchange:
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))  # the last rank has no part of 2
        divide(model, exchange)
        model(torch.ones(4, 2)).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, torch.inf)
    assert "infinity norm" in capfd.readouterr().err


def test_one_process_divides_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs several processes"):
        host(tmp_path, shard_feature_model=True).launch_task("tiny")
    with pytest.raises(ConfigError, match="give True or False"):
        host(tmp_path, feature_workers=2, shard_feature_model="yes").launch_task("tiny")


def test_no_weights_of_steps_before_are_kept(tmp_path: Path) -> None:
    settings: Any = {"feature_workers": 2, "shard_feature_model": True}
    _, outcome = run(host(tmp_path, max_staleness=2), PlacedCollaborator(tmp_path, **settings))
    assert isinstance(outcome, ConfigError)
    assert "max_staleness=0" in str(outcome)
