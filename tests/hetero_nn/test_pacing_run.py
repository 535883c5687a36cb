"""A run whose steps do not bear the staleness that would save time."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn, optim

from heterofed import TaskResult
from heterofed.compute import pace
from heterofed.compute.pace import MOST_CHOSEN, Pace
from tests.e2e.tiny import TinyCollaborator, TinyHost, run

ROUNDS, RATE = 12, 0.5
"""Steps of this rate halve the error; by gradients that are 16 steps old they make it grow."""


class Host(TinyHost):
    """Learns that the other party's one number is 1; all its own weights stay as they are."""

    batch = 1
    losses: list[float]

    def make_feature_model(self) -> Any:
        return None

    def make_infer_model(self) -> nn.Module:
        return nn.Identity()

    def make_infer_optimizer(self, infer_model: nn.Module) -> Any:
        return None

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for number, _ in enumerate(train_ids):
            yield None, torch.tensor([1 + 0.01 * math.sin(number)])

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        loss = 0.5 * (self.infer_model(feature_projection["bob"])[:, 0] - labels).square().mean()
        loss.backward()
        return loss

    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        pass


class Collaborator(TinyCollaborator):
    batch = 1

    def make_feature_model(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(feature_model.parameters(), lr=RATE)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for _ in train_ids:
            yield feature_model(torch.ones(1, 1))


@pytest.mark.long
def test_auto_falls_back_where_it_makes_the_loss_worse(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # What is measured hangs on the machine; this is what a slow link would lead to.
    monkeypatch.setattr(pace, "least_staleness", lambda *_: MOST_CHOSEN)
    monkeypatch.setattr(Pace, "review", lambda _, steps: (steps, False))
    host = Host(tmp_path, max_rounds=ROUNDS, max_staleness="auto", is_feature_trainable=False)
    with caplog.at_level(logging.INFO, "heterofed"):
        outcomes = run(host, Collaborator(tmp_path))
    assert all(isinstance(each, TaskResult) for each in outcomes), outcomes
    losses = pd.read_csv(outcomes[0].metrics["train"])["loss"]
    assert losses.max() > 100 * losses[0]
    assert "max_staleness is at most 8" in caplog.text
    assert "max_staleness is at most 2" in caplog.text
    assert losses.iloc[-1] < losses[0]
