"""The pooled baseline is the joint run; the local one knows nothing of the others' columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from heterofed import ConfigError, register_metrics, simulate
from heterofed.baselines import compare, plot
from tests.e2e.tiny import TinyCollaborator, TinyHost

pytestmark = pytest.mark.usefixtures("home")


class Host(TinyHost):
    """Learns what only the others' columns tell."""

    def __init__(self, results: Path, **settings: Any) -> None:
        super().__init__(results, **{"psi_protocol": "ecdh", "log_rounds": 1, **settings})
        self.seen: list[Tensor] = []

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        self.seen.append(feature_projection["bob"].detach())
        return super().train_a_batch(feature_projection, labels)

    @register_metrics(name="quality", keys=["loss"])
    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        projections = [torch.cat(list(each.values()), 1) for each in batched_feature_projections]
        output = self.infer_model(torch.cat(projections)).squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            output, torch.cat(batched_labels)
        )
        self.get_metrics("quality").append_metrics_item({"loss": loss})


def test_modes_beside_each_other(tmp_path: Path) -> None:
    host, bob = Host(tmp_path, max_rounds=3), TinyCollaborator(tmp_path)
    carol = TinyCollaborator(tmp_path, "carol", seed=3)
    host._collaborators = ["carol", "bob"]
    done = simulate(host, [bob, carol], task_id="tiny", baselines=["pooled", "local"])
    assert done.comparison is not None
    assert host.result.rounds == 3
    steps = len(host.seen) // 3
    assert all((each == 0).all() for each in host.seen[steps : 2 * steps])  # local comes second
    assert all((each != 0).any() for each in host.seen[2 * steps :])

    for name in ("quality", "train"):
        table = pd.read_csv(done.comparison.tables[name])
        assert list(table.columns)[:2] == ["mode", "round"]
        assert list(table["mode"]) == ["joint"] * 3 + ["local"] * 3 + ["pooled"] * 3
        losses = {mode: list(rows["loss"]) for mode, rows in table.groupby("mode")}
        assert losses["joint"] == losses["pooled"]
        assert losses["joint"] != losses["local"]
    for name, model in {"infer_model": "infer_model", "bob feature_model": "feature_model"}.items():
        folder = tmp_path / "tiny" / ("bob" if " " in name else "alice")
        joint = torch.load(folder / f"{model}.pt", weights_only=True)
        pooled = torch.load(done.comparison.models["pooled"][name], weights_only=True)
        local = torch.load(done.comparison.models["local"][name], weights_only=True)
        assert all(torch.equal(value, pooled[key]) for key, value in joint.items())
        assert not all(torch.equal(value, local[key]) for key, value in joint.items())

    picture = plot(done.comparison.tables["quality"], "loss", tmp_path / "modes.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="no column 'auc'"):
        plot(done.comparison.tables["quality"], "auc", tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    host, bob = Host(tmp_path), TinyCollaborator(tmp_path)
    for modes in (["alone"], "local"):
        with pytest.raises(ConfigError, match="baselines="):
            simulate(host, [bob], task_id="tiny", baselines=modes)  # type: ignore[arg-type]
    assert not (tmp_path / "tiny").exists()
    with pytest.raises(ConfigError, match="run the task first"):
        compare(host, [bob], task_id="tiny")
