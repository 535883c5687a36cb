"""The horizontal examples run on few images; all of MNIST gives the figures of their page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.e2e.processes import Parties


def figures(parties: Parties, *command: str) -> dict[str, Any]:
    run = parties.start("-m", *command, "--json")
    assert run.wait(3000) == 0, run.output
    found: dict[str, Any] = json.loads(run.output.splitlines()[-1])
    return found


@pytest.mark.long
def test_clients(parties: Parties, tmp_path: Path, mnist: Path) -> None:
    where = ("--data", str(mnist), "--results", str(tmp_path), "--limit", "3000", "500")
    found = figures(parties, "examples.clients", *where, "--parties", "10", "--rounds", "2")
    assert len(found["accuracies"]) == 2
    assert found["accuracies"][1] > found["accuracies"][0]


@pytest.mark.long
def test_private_clients(parties: Parties, tmp_path: Path, mnist: Path) -> None:
    where = ("--data", str(mnist), "--results", str(tmp_path), "--limit", "1280", "200")
    found = figures(parties, "examples.dp_clients", *where)
    assert found["epsilons"][0] < found["epsilons"][1]
    curves = pd.read_csv(found["csv"])
    assert curves["FT"].tolist() == found["accuracies"]
    assert curves["LT"].tolist() == found["local_accuracies"]
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_private_clients_with_all_images(parties: Parties, tmp_path: Path, mnist: Path) -> None:
    found = figures(
        parties, "examples.dp_clients", "--data", str(mnist), "--results", str(tmp_path)
    )
    assert found["epsilons"] == pytest.approx([0.53, 0.55], abs=0.01)
    # The noise is secret, so runs differ: the first round by 0.2, the second one by little.
    first, second = found["accuracies"]
    assert first < second == pytest.approx(0.82, abs=0.08)


def test_four_points(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from examples.virtual import horizontal, vertical

    monkeypatch.chdir(tmp_path)
    for losses in (horizontal.train(30), vertical.train(30)):
        assert len(losses) == 30
        assert losses[-1] < losses[0] / 3
