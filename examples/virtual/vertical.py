"""The same four points, one column at each party: the Host has the first one and the targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from examples.virtual.horizontal import POINTS, TARGETS
from heterofed import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler, simulate

IDS = ["a", "b", "c", "d"]


def column(number: int, ids: list[str]) -> Tensor:
    return POINTS[[IDS.index(each) for each in ids]][:, [number]]


class Bob(HeteroNNHostScheduler):
    def load_local_ids(self) -> list[str]:
        return IDS

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return id_intersection, id_intersection

    def make_feature_model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def make_feature_optimizer(self, feature_model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(feature_model.parameters(), lr=0.2)

    def make_infer_model(self) -> None:
        """The sum of both columns' parts is the prediction."""

    def make_infer_optimizer(self, infer_model: nn.Module) -> None:
        """There is nothing to step."""

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Any]:
        targets = TARGETS[[IDS.index(each) for each in train_ids]]
        yield feature_model(column(0, train_ids)), targets

    def iterate_test_feature(self, feature_model: nn.Module, test_ids: list[str]) -> Iterator[Any]:
        yield from self.iterate_train_feature(feature_model, test_ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        self.optimizer.zero_grad()
        loss: Any = (sum(feature_projection.values()) - labels).square().mean()
        loss.backward()
        self.optimizer.step()
        return loss

    def test(self, batched_feature_projections: list[Any], batched_labels: list[Any]) -> None:
        """The losses of the rounds are all that is looked at."""


class Alice(HeteroNNCollaboratorScheduler):
    def load_local_ids(self) -> list[str]:
        return IDS

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return id_intersection, id_intersection

    def make_feature_model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def make_feature_optimizer(self, feature_model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(feature_model.parameters(), lr=0.2)

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Any]:
        yield feature_model(column(1, train_ids))

    def iterate_test_feature(self, feature_model: nn.Module, test_ids: list[str]) -> Iterator[Any]:
        yield from self.iterate_train_feature(feature_model, test_ids)


def train(rounds: int = 20) -> list[float]:
    """The mean loss of each round."""
    bob, alice = Bob("bob", max_rounds=rounds, seed=1), Alice("alice", seed=2)
    done = simulate(bob, [alice], task_id="virtual-vertical")
    losses: list[float] = done.results["bob"].frame("train")["loss"].tolist()
    return losses
