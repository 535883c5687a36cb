"""What a tabular task measures of its own leaks, whatever its columns and its label are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from heterofed import simulate
from heterofed.tabular import TabularCollaborator, TabularHost
from heterofed.tabular.prepare.inputs import SHOWN, Bag, Inputs


@pytest.fixture(scope="module")
def leaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    results = tmp_path_factory.mktemp("runs")
    chance = np.random.default_rng(0)
    ids = [f"P{row:03}" for row in range(300)]
    signal = chance.normal(size=300)
    tables: dict[str, dict[str, Any]] = {
        "bank": {"x": chance.normal(size=300), "amount": (1000 + 300 * signal).round()},
        "numbers": {"signal": signal, "noise": chance.normal(size=300)},
        "categories": {"town": chance.choice(list("ABCDE"), 300)},
        "words": {"note": [f"word{row % 7} and word{row % 5} of {row}" for row in range(300)]},
    }
    given: dict[str, Any] = {"ids": "id", "results_dir": results, "seed": 0}
    bank, *others = ((name, pd.DataFrame({"id": ids} | each)) for name, each in tables.items())
    host = TabularHost(
        *bank, label="amount", max_rounds=2, collaborators=3, psi_protocol="ecdh", **given
    )
    done = simulate(host, [TabularCollaborator(*each, **given) for each in others], task_id="t")
    assert host.objective is not None
    assert host.objective.kind == "regression"
    return {
        name: pd.read_csv(each.folder / "leakage.csv")
        for name, each in done.results.items()
        if (each.folder / "leakage.csv").exists()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["numbers", "categories", "words"])
def test_a_collaborator_measures_columns_of_every_kind(name: str, leaks: Any) -> None:
    assert set(leaks[name]["party"]) == {"the Host"}
    assert "distance_correlation" in set(leaks[name]["attack"])


@pytest.mark.slow
def test_a_host_measures_amounts_for_each_party(leaks: Any) -> None:
    assert set(leaks["bank"]["party"]) == {"numbers", "categories", "words"}
    assert set(leaks["bank"]["attack"]) == {"regression"}
    assert leaks["bank"]["value"].between(0, 1).all()


def test_inputs_become_numbers_for_attacks() -> None:
    bag = Bag(torch.tensor([0, 17, 3]), torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0, 2, 2, 3]))
    codes = torch.tensor([[1], [2], [99]])
    found = Inputs(torch.ones(3, 2), {"town": codes}, {"note": bag}).as_numbers()
    assert found.shape == (3, 2 + SHOWN + SHOWN)
    assert found[:, 2:5].tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]  # later categories: none
    tokens = found[:, 2 + SHOWN :]
    assert tokens[:, [0, 1, 3]].tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 5]]
