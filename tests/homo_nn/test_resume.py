"""A horizontal run goes on after parties were lost, to the same weights, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from heterofed import TaskResult
from heterofed import errors as e
from heterofed.homo_nn import FedAdam
from tests.e2e.processes import Parties
from tests.e2e.tiny import run
from tests.homo_nn.tiny import Party, host
from tests.runs.test_resume import CrashError, crashing

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

ROUNDS = 4


def parties(folder: Path, secure: bool, **settings: Any) -> dict[str, Any]:
    first = host(
        folder, 3, ROUNDS, fraction=0.67, strategy=FedAdam(), secure_aggregation=secure, **settings
    )
    return {"head": first} | {
        name: Party(folder, name, number, steps=2, momentum=0.5)
        for number, name in enumerate(("a", "b", "c"))
    }


def content(results: list[Any]) -> dict[str, Any]:
    """The weights of all parties, and every CSV."""
    assert all(isinstance(each, TaskResult) for each in results), results
    found: dict[str, Any] = {}
    for each in results:
        assert not (each.folder / "resume").exists()
        state = torch.load(each.models["model"], weights_only=True)
        found |= {f"{each.party} {key}": value.tolist() for key, value in state.items()}
        found |= {f"{each.party} {n}": p.read_text() for n, p in each.metrics.items()}
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, Any]]:
    found = {}
    for secure in (False, True):
        folder = tmp_path_factory.mktemp("undisturbed")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HETEROFED_HOME", str(folder / "home"))
            found[secure] = content(run(*parties(folder, secure).values()))
    return found


PLACES = [
    ("a", "make_model", 1),
    ("b", "train_a_round", 1),
    ("c", "train_a_round", 2),
    ("a", "test", 2),
    ("b", "on_round_end", ROUNDS),
    ("head", "take_scores", 2),
    ("head", "on_round_end", 1),
    ("head", "on_round_end", ROUNDS),
]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize(("victim", "hook", "at"), PLACES)
def test_all_started_again(
    victim: str, hook: str, at: int, secure: bool, tmp_path: Path, undisturbed: Any
) -> None:
    first = parties(tmp_path, secure)
    crashing(first[victim], hook, at)
    outcomes = dict(zip(first, run(*first.values()), strict=True))
    assert isinstance(outcomes.pop(victim), CrashError)
    assert all(isinstance(each, e.PeerLostError) for each in outcomes.values()), outcomes
    assert content(run(*parties(tmp_path, secure).values())) == undisturbed[secure]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize(("victim", "hook", "at"), [PLACES[1], PLACES[3], PLACES[5]])
def test_one_started_again_while_the_others_wait(
    victim: str, hook: str, at: int, secure: bool, tmp_path: Path, undisturbed: Any
) -> None:
    made = parties(tmp_path, secure, wait_for_peers=30)
    crashing(made[victim], hook, at)
    original = made[victim].launch_task

    def launch(task: str) -> Any:
        with pytest.raises(CrashError):
            original(task)
        return parties(tmp_path, secure, wait_for_peers=30)[victim].launch_task(task)

    made[victim].launch_task = launch
    assert content(run(*made.values())) == undisturbed[secure]


def processes(started: Parties, results: Path, *what: str) -> dict[str, Any]:
    command = ("-m", "tests.homo_nn.tiny")
    roles = ("head", "a1", "b2")
    return {role: started.start(*command, role, str(results), *what) for role in roles}


def weights(results: Path) -> list[list[float]]:
    paths = [results / "tiny" / role / "model.pt" for role in ("head", "a1", "b2")]
    states = [torch.load(path, weights_only=True) for path in paths]
    return [torch.cat([each.flatten() for each in state.values()]).tolist() for state in states]


@pytest.mark.long
def test_kill_9_of_processes(parties: Parties, tmp_path: Path) -> None:
    """One party while the others wait, then the Host and another party at once."""
    whole = processes(parties, tmp_path / "whole", "secure")
    assert [each.wait() for each in whole.values()] == [0, 0, 0]
    expected = weights(tmp_path / "whole")
    assert expected[0] == expected[1] == expected[2]

    what = ("secure", "slow", "patient")
    run = processes(parties, tmp_path / "torn", *what)
    run["a1"].wait_for("trains round 2")
    run["a1"].kill()
    run["a1"] = parties.start("-m", "tests.homo_nn.tiny", "a1", str(tmp_path / "torn"), *what)
    run["a1"].wait_for("trains round 4")
    for role in ("head", "b2"):
        run[role].kill()
        run[role] = parties.start("-m", "tests.homo_nn.tiny", role, str(tmp_path / "torn"), *what)
    for each in run.values():
        assert each.wait() == 0, each.output
    assert weights(tmp_path / "torn") == expected
