"""The benchmark runs on tables of its form and tells what is to be told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import privacy

pytestmark = pytest.mark.slow


def tables(folder: Path, rows: int = 800) -> None:
    """Two parties' columns of which the labels depend on both, a fifth of them 1."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(rows, 4)), rng.normal(size=(rows, 3))
    chance = x[:, 0] + z[:, 1] + rng.normal(scale=0.5, size=rows)
    labels = (chance > np.quantile(chance, 0.8)).astype(int)
    for name, columns, own in (("guest", x, labels), ("host", z, None)):
        head = [
            "id",
            *(["y"] if own is not None else []),
            *(f"x{n}" for n in range(len(columns.T))),
        ]
        lines = [",".join(head)]
        for row in rng.permutation(rows):
            label = [] if own is None else [str(own[row])]
            lines.append(",".join([f"p{row}", *label, *(f"{each:.4f}" for each in columns[row])]))
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def test_credit_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables(tmp_path)
    picture = tmp_path / "trade-off.png"
    kinds = ["none", "marvell_bound", "label_dp", "clip_noise", "decorrelation"]
    threads = torch.get_num_threads()
    chosen = [next(each for each in privacy.SETTINGS if each.defence == kind) for kind in kinds]
    monkeypatch.setattr(privacy, "SETTINGS", chosen)
    words = f"privacy --data {tmp_path} --task credit --rounds 4 --batch 64 --json --plot {picture}"
    monkeypatch.setattr(sys, "argv", words.split())
    try:
        privacy.main()
    finally:
        torch.set_num_threads(threads)
    rows = json.loads(capsys.readouterr().out)
    assert [row["defence"] for row in rows] == kinds
    needed = {"defence", "strength", "task_auc", "norm_leak_auc", "cosine_leak_auc"}
    assert all(needed <= row.keys() for row in rows)
    open_, hidden = rows[0], rows[1]
    assert open_["cosine_leak_auc"] > 0.95
    assert hidden["cosine_leak_auc"] < open_["cosine_leak_auc"] - 0.15
    assert hidden["norm_leak_auc"] < open_["norm_leak_auc"]
    assert open_["task_auc"] > 0.7
    assert open_["ridge_r2"] > 0.8
    assert picture.read_bytes().startswith(b"\x89PNG")
