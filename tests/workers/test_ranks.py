"""A party of several processes trains the weights of a party of one, and names a lost process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heterofed.errors import RankLostError, TaskAborted
from tests.e2e.on_device import PlacedCollaborator, PlacedHost, finished, joined, weights
from tests.e2e.test_gpu import close
from tests.e2e.tiny import run
from tests.workers.ranks import ended, start

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]

ROUNDS = 4


def trained(folder: Path) -> dict[str, Any]:
    """The weights that both parties have in their results folders."""
    import torch

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
