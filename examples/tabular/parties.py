"""The hooks of the three parties: the hospital is the Host, lab and clinic are Collaborators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn, optim

from heterofed import Batch, HeteroNNCollaboratorScheduler, HeteroNNHostScheduler, register_metrics
from heterofed.data import VerticalTable

BATCH = 64
WIDTH = 8
"""Numbers per row at the cut layer."""


class Half(nn.Module):
    """A party's columns, standardised by its own means and deviations, to the cut layer."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, table: VerticalTable) -> None:
        super().__init__()
        rows = table.rows(table.ids)
        # Buffers: they are kept beside the weights, for rows that come later.
        self.register_buffer("mean", rows.mean(dim=0))
        self.register_buffer("deviation", rows.std(dim=0))
        self.net = nn.Sequential(nn.Linear(rows.shape[1], WIDTH), nn.ReLU(), nn.Dropout(0.1))

    def forward(self, rows: Tensor) -> Tensor:
        output: Tensor = self.net((rows - self.mean) / self.deviation)
        return output


def make_optimizer(model: nn.Module) -> optim.Optimizer:
    """The same at every party."""
    return optim.Adam(model.parameters(), lr=0.01)


class Hospital(HeteroNNHostScheduler):
    """Holds the labels."""

    def __init__(self, feature_key: str, table: VerticalTable, **settings: Any) -> None:
        super().__init__(feature_key, **settings)
        self.table = table

    def load_local_ids(self) -> list[str]:
        return self.table.ids

    def make_feature_model(self) -> nn.Module:
        return Half(self.table)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return make_optimizer(feature_model)

    def make_infer_model(self) -> nn.Module:
        return nn.Linear(3 * WIDTH, 1)

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return make_optimizer(infer_model)

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Batch]:
        for features, labels, ids in self.table.batches(train_ids, BATCH):
            yield Batch(feature_model(features), labels.float(), ids)

    def iterate_test_feature(
        self, feature_model: nn.Module, test_ids: list[str]
    ) -> Iterator[Batch]:
        yield from self.iterate_train_feature(feature_model, test_ids)

    def score(self, projection: dict[str, Tensor]) -> Tensor:
        """Logits, [rows]."""
        output: Tensor = self.infer_model(torch.cat(list(projection.values()), dim=1))
        return output.squeeze(1)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(self.score(feature_projection), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    @register_metrics(name="test", keys=["auc"])
    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        scores = torch.cat([self.score(each) for each in batched_feature_projections])
        auc = float(roc_auc_score(torch.cat(batched_labels), scores))
        self.get_metrics("test").append_metrics_item({"auc": auc})

    def predict_a_batch(self, feature_projection: dict[str, Tensor]) -> Tensor:
        return torch.sigmoid(self.score(feature_projection))


class Colleague(HeteroNNCollaboratorScheduler):
    """Holds columns only."""

    def __init__(self, feature_key: str, table: VerticalTable, **settings: Any) -> None:
        super().__init__(feature_key, **settings)
        self.table = table

    def load_local_ids(self) -> list[str]:
        return self.table.ids

    def make_feature_model(self) -> nn.Module:
        return Half(self.table)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return make_optimizer(feature_model)

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Batch]:
        for features, _, ids in self.table.batches(train_ids, BATCH):
            yield Batch(feature_model(features), ids=ids)

    def iterate_test_feature(
        self, feature_model: nn.Module, test_ids: list[str]
    ) -> Iterator[Batch]:
        yield from self.iterate_train_feature(feature_model, test_ids)
