"""The tabular example reaches what its page says, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.processes import Parties


@pytest.mark.long
def test_figures(parties: Parties, tmp_path: Path) -> None:
    run = parties.start("-m", "examples.tabular", "--json", "--results", str(tmp_path))
    assert run.wait() == 0, run.output
    found = json.loads(run.output.splitlines()[-1])
    assert found["max_abs_diff_joined"] <= 1e-5
    assert found["auc_joint"] == pytest.approx(found["auc_pooled"], abs=1e-6)
    assert found["auc_joint"] > 0.99
    assert found["auc_local"] < found["auc_joint"] - 0.03
    assert found["auc_by_parties"]["hospital+lab+clinic"]["rows"] == found["test_ids"]
    assert sum(each["rows"] for each in found["auc_by_parties"].values()) <= 569
    table = pd.read_csv(found["metrics_csv"])
    assert table.groupby("mode")["round"].count().to_dict() == dict.fromkeys(
        ("joint", "local", "pooled"), found["rounds"]
    )
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG")
