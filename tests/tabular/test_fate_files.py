"""From files as users of FATE have them to a joint model as good as one of all columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofed import simulate, simulate_prediction
from heterofed.tabular import TabularCollaborator, TabularHost
from tests.tabular.fate_files import numbers, svmlight, tag_value, with_header


@pytest.mark.long
def test_four_classes_three_parties_three_kinds_of_files(tmp_path: Path) -> None:
    table, label = numbers()
    host = with_header(tmp_path / "a.csv", table[["x0", "x1", "x2"]], label, id="sid")
    tags = tag_value(tmp_path / "b.csv", table[["x3", "x4", "x5", "x6", "x7"]])
    sparse = svmlight(tmp_path / "c.csv", table[["x8", "x9", "x10", "x11"]])
    results = tmp_path / "runs"
    common: dict[str, Any] = {"results_dir": results, "seed": 0}

    def partners() -> list[TabularCollaborator]:
        return [
            TabularCollaborator(name, path, ids="c1", **common)
            for name, path in (("tags", tags), ("sparse", sparse))
        ]

    bank = TabularHost(
        "bank",
        host,
        ids="sid",
        label="y",
        collaborators=["tags", "sparse"],
        max_rounds=15,
        learning_rate=0.01,
        batch_size=32,
        psi_protocol="ecdh",
        leak_report="off",
        **common,
    )
    done = simulate(bank, partners(), task_id="t", baselines=["local", "pooled"])
    test = pd.read_csv(done.comparison.tables["test"]).set_index("mode")  # type: ignore[union-attr]
    auc = test["macro_auc"].to_dict()
    joint, local, pooled = (auc[mode] for mode in ("joint", "local", "pooled"))
    assert joint > local + 0.05
    assert joint == pytest.approx(pooled, abs=0.02)
    reader = TabularHost("bank", host, ids="sid", label=None, collaborators=2, **common)
    frame = simulate_prediction(reader, partners(), task_id="t").results["bank"]
    assert len(frame) == len(table)
    assert [name for name in frame if name.startswith("probability")] == [
        f"probability {each}" for each in range(4)
    ]
