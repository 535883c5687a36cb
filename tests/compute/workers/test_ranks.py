"""A party of several processes trains the weights of a party of one, and names a lost process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from heterofed.errors import ConfigError, RankLostError, TaskAborted
from tests.compute.workers.ranks import ended, start
from tests.e2e.on_device import PlacedCollaborator, PlacedHost, finished, joined, weights
from tests.e2e.processes import ROOT
from tests.e2e.test_gpu import close
from tests.e2e.tiny import run

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("home")]

ROUNDS = 4


def trained(folder: Path) -> dict[str, Any]:
    """The weights that both parties have in their results folders."""
    return {
        f"{party}.{path.stem}.{key}": tensor
        for party in ("alice", "bob")
        for path in (folder / "tiny" / party).glob("*_model.pt")
        for key, tensor in torch.load(path, map_location="cpu", weights_only=True).items()
    }


def host(folder: Path, **settings: Any) -> PlacedHost:
    return PlacedHost(folder, max_rounds=ROUNDS, **settings)


@pytest.mark.parametrize(
    "ranks", [pytest.param(1, marks=pytest.mark.long), 2, pytest.param(4, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("steps", [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_collaborator_of_several_processes(ranks: int, steps: int, tmp_path: Path) -> None:
    others = start(ranks, "collaborator", tmp_path)
    mine = host(tmp_path, max_staleness=steps)
    (result,) = finished(mine)
    assert all("rounds 4" in each for each in ended(others))
    wanted = joined(mine.train_ids, ROUNDS, "cpu")
    if steps:
        parties = host(tmp_path / "one", max_staleness=steps), PlacedCollaborator(tmp_path / "one")
        wanted = weights(*finished(*parties))
    found = trained(tmp_path)
    assert result.rounds == ROUNDS
    close(found, wanted)


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.long), 3])
def test_a_host_of_several_processes(ranks: int, tmp_path: Path) -> None:
    others = start(ranks, "host", tmp_path)
    shop = PlacedCollaborator(tmp_path)
    finished(shop)
    assert all("rounds 4" in each for each in ended(others))
    close(trained(tmp_path), joined(shop.train_ids, ROUNDS, "cpu"))


def test_a_party_starts_further_processes_itself(tmp_path: Path) -> None:
    mine, shop = host(tmp_path), PlacedCollaborator(tmp_path, feature_workers=2)
    finished(mine, shop)
    close(trained(tmp_path), joined(mine.train_ids, ROUNDS, "cpu"))
    assert not dist.is_initialized()


@pytest.mark.long
def test_the_class_of_a_model_may_be_in_the_script(tmp_path: Path) -> None:
    (process,) = script = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    ]
    mine = host(tmp_path)
    finished(mine)
    assert "rounds 4" in ended(script)[0]
    assert process.returncode == 0
    close(trained(tmp_path), joined(mine.train_ids, ROUNDS, "cpu"))


SCRIPT = """
import sys
from pathlib import Path
from torch import nn
from tests.e2e.on_device import PlacedCollaborator

class Net(nn.Sequential):
    def forward(self, x):
        return self[2](self[0](x).tanh())

class Own(PlacedCollaborator):
    def make_feature_model(self):
        return Net(*super().make_feature_model())

print("rounds", Own(Path(sys.argv[1]), feature_workers=2).launch_task("tiny").rounds)
"""
"""A script without a main guard."""


@pytest.mark.parametrize("number", [0, 1.5, True, 10_000])
def test_the_number_of_processes_is_checked(number: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="feature_workers="):
        host(tmp_path, feature_workers=number).launch_task("tiny")


def test_one_way_of_starting_processes_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        host(tmp_path, feature_workers=2).launch_task("tiny")


@pytest.mark.gpu
@pytest.mark.parametrize("ranks", [2])
def test_processes_share_a_gpu(ranks: int, tmp_path: Path) -> None:
    others = start(ranks, "collaborator", tmp_path, "cuda")
    mine = host(tmp_path)
    finished(mine)
    assert all("rounds 4" in each for each in ended(others))
    close(trained(tmp_path), joined(mine.train_ids, ROUNDS, "cpu"))


@pytest.mark.parametrize("how", ["kill", pytest.param("stop", marks=pytest.mark.long)])
def test_a_lost_process_is_named_and_the_run_resumes(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_LAST_RANK", str(tmp_path / "last"))
    others = start(2, "collaborator", tmp_path, how)
    (outcome,) = run(host(tmp_path, calculation_timeout=8))
    assert isinstance(outcome, RankLostError), repr(outcome)
    assert isinstance(outcome, TaskAborted)
    others[1].kill()
    first, _ = ended(others)
    assert "error RankLostError rank 1 of the 2 processes of this party" in first
    others = start(3, "collaborator", tmp_path)  # another number may go on
    mine = host(tmp_path)
    finished(mine)
    assert all("rounds 4" in each for each in ended(others))
    close(trained(tmp_path), joined(mine.train_ids, ROUNDS, "cpu"))
