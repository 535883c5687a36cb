"""Seventeen parties on one machine: each Collaborator holds a strip of every digit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from examples.mnist_split.data import load_halves, split_ids
from heterofed import Batch, HeteroNNCollaboratorScheduler, HeteroNNHostScheduler, register_metrics
from tests.e2e.tiny import run

PARTIES = 16
LIMIT = (1000, 200)


class Strip:
    """The same few pixels of every right half, and how they become features."""

    def __init__(self, mnist: Path, number: int) -> None:
        half = load_halves(mnist, "right", labels=True, limit=LIMIT)
        pixels, labels, self.ids = half.take(half.ids)
        assert labels is not None
        self.pixels = pixels.flatten(1).tensor_split(PARTIES, dim=1)[number]
        self.labels = labels
        self.where = {each: row for row, each in enumerate(self.ids)}

    def of(self, ids: list[str]) -> tuple[Tensor, Tensor]:
        rows = [self.where[each] for each in ids]
        return self.pixels[rows], self.labels[rows]


class Host(HeteroNNHostScheduler):
    """Labels only."""

    def __init__(self, mnist: Path, **settings: Any) -> None:
        super().__init__("host", batch_size=100, psi_protocol="ecdh", **settings)
        self.strip = Strip(mnist, 0)

    def load_local_ids(self) -> list[str]:
        return self.strip.ids

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return split_ids(id_intersection)

    def make_feature_model(self) -> None:
        return None

    def make_feature_optimizer(self, feature_model: Any) -> None:
        return None

    def make_infer_model(self) -> nn.Module:
        return nn.Linear(8 * PARTIES, 10)

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return optim.Adam(infer_model.parameters(), lr=0.01)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Batch]:
        for ids in self.batches(train_ids):
            yield Batch(None, self.strip.of(ids)[1], ids)

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Batch]:
        yield from self.iterate_train_feature(feature_model, test_ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        fused = torch.cat(list(feature_projection.values()), dim=1)
        loss = F.cross_entropy(self.infer_model(fused), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    @register_metrics(name="quality", keys=["accuracy"])
    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        fused = [torch.cat(list(each.values()), dim=1) for each in batched_feature_projections]
        right = self.infer_model(torch.cat(fused)).argmax(dim=1) == torch.cat(batched_labels)
        self.get_metrics("quality").append_metrics_item({"accuracy": right.float().mean()})


class Collaborator(HeteroNNCollaboratorScheduler):
    """One strip."""

    def __init__(self, mnist: Path, number: int, **settings: Any) -> None:
        super().__init__(f"strip-{number:02}", **settings)
        self.strip = Strip(mnist, number)

    def load_local_ids(self) -> list[str]:
        return self.strip.ids

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return split_ids(id_intersection)

    def make_feature_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(self.strip.pixels.shape[1], 8), nn.ReLU())

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.Adam(feature_model.parameters(), lr=0.01)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Batch]:
        for ids in self.batches(train_ids):
            yield Batch(feature_model(self.strip.of(ids)[0]), ids=ids)

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Batch]:
        yield from self.iterate_train_feature(feature_model, test_ids)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_sixteen_collaborators_train_on_strips_of_mnist(mnist: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"results_dir": tmp_path, "join_timeout": 100, "seed": 3}
    host = Host(mnist, max_rounds=3, collaborators=PARTIES, **settings)
    outcomes = run(host, *(Collaborator(mnist, n, **settings) for n in range(PARTIES)), timeout=200)
    for each in outcomes:
        if isinstance(each, BaseException):
            raise each
    assert {each.rounds for each in outcomes} == {3}
    quality = pd.read_csv(outcomes[0].metrics["quality"])
    assert quality["accuracy"].iloc[-1] > 0.6
