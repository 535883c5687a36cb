"""The example with a transformer trains its LoRA weights alone, exactly and with staleness."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.processes import Parties


@pytest.mark.long
@pytest.mark.parametrize("staleness", ["0", "4"])
def test_figures(staleness: str, parties: Parties, tmp_path: Path) -> None:
    options = ("--json", "--results", str(tmp_path), "--max-staleness", staleness)
    run = parties.start("-m", "examples.text_and_table", *options)
    assert run.wait(200) == 0, run.output
    found = json.loads(run.output.splitlines()[-1])
    assert max(found["auc"][-3:]) > found["auc"][0] + 0.02
    assert found["auc_predicted"] > 0.85
    *weights, digest = found["saved"]
    assert all("lora_" in each for each in weights)
    assert digest == "frozen_weights_sha256"
    assert found["trained_weights"] < found["frozen_weights"] / 5
    assert found["frozen_weights_changed"] == 0
