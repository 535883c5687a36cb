"""The guide's snippets run as they stand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.docs.samples import executed
from tests.e2e.processes import ROOT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Secure RNG turned off")
def test_guide(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = executed(ROOT / "docs/how-to/horizontal.md", {})
    errors = found["result"].frame("test")["error"].tolist()
    assert len(errors) == 5
    assert errors[-1] < errors[0] / 10
    epsilons = pd.read_csv(found["private"].metrics["privacy"])["eps_weights"].tolist()
    assert 0 < epsilons[0] < epsilons[1] < 50
    central = pd.read_csv(found["central"].metrics["privacy"])["eps_parties"].tolist()
    assert 0 < central[0] < central[1] < central[2] < 10
    report = found["central"].report.read_text(encoding="utf-8")
    assert "Each party, in the averages" in report
