"""A hook may use one buffer for all its batches: what comes of it is the same."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heterofed import Batch, simulate
from heterofed.compute.batch import copied
from heterofed.simulation.simulate import simulate_prediction
from tests.e2e.tiny import BATCH, TinyCollaborator, TinyHost, rows

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

Pair = namedtuple("Pair", ["first", "second"])


class Buffer:
    """Gives each batch its own memory, or all of them the same: NumPy's or torch's."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.array = np.zeros(BATCH * 8, np.float32)
        self.tensor = torch.zeros(BATCH * 8)

    def __call__(self, values: Tensor) -> Tensor:
        if self.kind == "own":
            return values
        size = values.numel()
        if self.kind == "numpy":
            self.array[:size] = values.numpy().ravel()
            return torch.from_numpy(self.array[:size]).view(values.shape)
        self.tensor[:size] = values.reshape(-1)
        return self.tensor[:size].view(values.shape)


class Host(TinyHost):
    """Its features and labels are views of buffers; also inside a dict and a tuple."""

    def __init__(self, folder: Path, kind: str, **settings: Any) -> None:
        super().__init__(folder, psi_protocol="ecdh", leak_report="full", **settings)
        self.columns, self.truth = Buffer(kind), Buffer(kind)
        self.told: list[float] = []

    def make_feature_model(self) -> nn.Module:
        return nn.Identity()

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), self.batch):
            ids = train_ids[start : start + self.batch]
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids])
            features = {"own": self.columns(rows(ids, 2, 0))}
            yield Batch(features, (self.truth(labels), len(ids)), ids)

    def train_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> Any:
        flat = feature_projection | {"alice": feature_projection["alice"]["own"]}
        return super().train_a_batch(flat, labels[0])

    def test(self, batched_feature_projections: list[Any], batched_labels: list[Any]) -> None:
        for projection, (labels, _) in zip(
            batched_feature_projections, batched_labels, strict=True
        ):
            fused = torch.cat([projection["alice"]["own"], projection["bob"]], dim=1)
            output = self.infer_model(fused).squeeze(1)
            self.told.append(float((output * labels).sum()))

    def predict_a_batch(self, feature_projection: dict[str, Any]) -> Tensor:
        fused = torch.cat([feature_projection["alice"]["own"], feature_projection["bob"]], dim=1)
        return self.truth(self.infer_model(fused).squeeze(1))


class Collaborator(TinyCollaborator):
    def __init__(self, folder: Path, kind: str, **settings: Any) -> None:
        super().__init__(folder, leak_report="full", **settings)
        self.columns = Buffer(kind)
        self.raw = not settings.get("is_feature_trainable", True)

    def make_feature_model(self) -> nn.Module:
        return nn.Identity() if self.raw else super().make_feature_model()

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), self.batch):
            yield feature_model(self.columns(rows(train_ids[start : start + self.batch], 3, 7)))


def outcome(folder: Path, kind: str, steps: int, trains: bool) -> Any:
    class Small(Host):
        batch = 5

    class SmallToo(Collaborator):
        batch = 5

    host = Small(folder, kind, max_staleness=steps)
    other = SmallToo(folder, kind, is_feature_trainable=trains)
    simulate(host, [other], task_id=kind, baselines=["pooled"])
    weights = [*host.infer_model.parameters(), *other.feature_model.parameters()]
    table = simulate_prediction(host, [other], task_id=kind).results["alice"]
    return host.told, weights, list(table["prediction"])


@pytest.mark.parametrize(
    ("steps", "trains"), [(0, True), (2, True), (0, False)], ids=["exact", "stale", "frozen"]
)
def test_one_buffer_for_all_batches(steps: int, trains: bool, tmp_path: Path) -> None:
    told, weights, predictions = outcome(tmp_path, "own", steps, trains)
    for kind in ("numpy", "torch") if not steps else ("numpy",):
        again, others, table = outcome(tmp_path, kind, steps, trains)
        assert again == told
        assert all(map(torch.equal, others, weights))
        assert table == predictions


def test_torch_memory_that_is_used_again_too_early_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="give each batch its own memory"):
        outcome(tmp_path, "torch", 2, trains=True)


def test_copies_have_the_form_of_what_is_copied() -> None:
    tensor, array = torch.ones(2), np.ones(2)
    value: dict[str, Any] = OrderedDict(
        a=tensor, b=[array, "x"], c=Pair(tensor, {"d": (array, None)}), e=(1, tensor)
    )
    other: Any = copied(value)
    tensor.zero_()
    array[:] = 0
    assert type(other) is OrderedDict
    assert type(other["c"]) is Pair
    assert [type(each) for each in other.values()] == [type(each) for each in value.values()]
    assert other["a"].sum() == other["b"][0].sum() == other["c"].first.sum() == 2
    assert other["c"].second["d"][0].sum() == other["e"][1].sum() == 2
    assert value["a"].sum() == 0
