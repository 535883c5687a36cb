"""The pooled baseline is the joint run; the local one knows nothing of the others' columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from heterofed import Batch, ConfigError, register_metrics, simulate
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.simulation.baselines import compare, plot
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows, with_settings

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


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
    with_settings(host, collaborators=["carol", "bob"])
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
    with pytest.raises(ConfigError, match="rehearsal"):
        simulate(host, [bob], task_id="tiny", baselines=["local"], rehearse=True)
    private = Host(tmp_path, label_dp=RandomisedResponse(1.0))
    with pytest.raises(ConfigError, match="label_dp"):
        simulate(private, [bob], task_id="tiny", baselines=["local"])
    assert not (tmp_path / "tiny").exists()
    with pytest.raises(ConfigError, match="run the task first"):
        compare(host, [bob], task_id="tiny")


class PoissonHost(Host):
    """Draws its batches, as for DP-SGD."""

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
        for ids in self.poisson_batches(train_ids, 8):
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids])
            yield Batch(feature_model(columns(ids, 2, 0)), labels, ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        return super().train_a_batch(feature_projection, labels) if len(labels) else {"loss": 0.0}

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Any:
        yield from TinyHost.iterate_train_feature(self, feature_model, test_ids)


class PoissonCollaborator(TinyCollaborator):
    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
        for ids in self.poisson_batches(train_ids, 8):
            yield Batch(feature_model(columns(ids, 3, 7)), ids=ids)

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Any:
        yield from TinyCollaborator.iterate_train_feature(self, feature_model, test_ids)


def columns(ids: list[str], count: int, salt: int) -> Tensor:
    return rows(ids, count, salt) if ids else torch.zeros(0, count)


def losses(done: Any) -> dict[str, list[float]]:
    table = pd.read_csv(done.comparison.tables["train"])
    return {str(mode): list(rows["loss"]) for mode, rows in table.groupby("mode")}


@pytest.mark.parametrize("kind", ["party_dropout", "poisson_batches", "masked_sum", "drawn_seeds"])
def test_pooled_does_what_the_joint_run_does(kind: str, tmp_path: Path) -> None:
    host: Any
    if kind == "party_dropout":
        host, parties = Host(tmp_path, party_dropout=0.5), [TinyCollaborator(tmp_path)]
    elif kind == "drawn_seeds":
        host, parties = Host(tmp_path, seed=None), [TinyCollaborator(tmp_path, seed=None)]
    elif kind == "poisson_batches":
        host, parties = PoissonHost(tmp_path), [PoissonCollaborator(tmp_path)]
    else:
        names = ["bob", "carol"]
        host = SumHost(tmp_path, collaborators=names, fusion="masked_sum")
        parties = [TinyCollaborator(tmp_path, name) for name in names]
    found = losses(simulate(host, parties, task_id="tiny", baselines=["pooled", "local"]))
    if kind == "masked_sum":
        assert found["joint"] == pytest.approx(found["pooled"], rel=1e-5)  # a sum is rounded
    else:
        assert found["joint"] == found["pooled"]
    assert found["joint"] != pytest.approx(found["local"], rel=1e-3)


class SumHost(TinyHost):
    def __init__(self, results: Path, **settings: Any) -> None:
        super().__init__(results, psi_protocol="ecdh", **settings)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        assert list(feature_projection) == ["alice", "masked_sum"]
        return super().train_a_batch(feature_projection, labels)


def test_tables_are_csv_and_hold_metrics_only(tmp_path: Path) -> None:
    class Words(TinyHost):
        @register_metrics(name="words", keys=["note", "number"])
        def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
            item = {"note": 'a, "b"', "number": self.current_round}
            self.get_metrics("words").append_metrics_item(item)

    host = Words(tmp_path, psi_protocol="ecdh", log_rounds=1)
    done = simulate(host, [TinyCollaborator(tmp_path)], task_id="tiny", baselines=["local"])
    assert done.comparison is not None
    assert set(done.comparison.tables) == {"train", "words"}
    table = pd.read_csv(done.comparison.tables["words"])
    assert list(table["note"]) == ['a, "b"'] * 4
    assert list(table["number"]) == [1, 2, 1, 2]
