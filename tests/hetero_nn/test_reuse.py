"""A hook may use the same memory for each batch, however far the Host is behind in reading."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.e2e.tiny import TinyCollaborator, TinyHost, run

pytestmark = pytest.mark.usefixtures("home")

BATCHES, SHAPE = 14, (2, 1 << 20)  # 8 MiB each: more than may be under way at once


class Reuses(TinyCollaborator):
    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        features = torch.empty(SHAPE)
        for number in range(BATCHES):
            yield features.fill_(number)

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
        yield torch.zeros(2, 4)


class Reads(TinyHost):
    seen: list[tuple[float, float]]

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for _ in range(BATCHES):
            yield feature_model(torch.ones(2, 2)), torch.ones(2)

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
        yield feature_model(torch.ones(2, 2)), torch.ones(2)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        time.sleep(1.0 if not self.seen else 0.05)
        theirs = feature_projection["bob"]
        self.seen.append((theirs.min().item(), theirs.max().item()))

    def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
        pass


@pytest.mark.slow
def test_features_in_reused_memory_arrive_as_they_were(tmp_path: Path) -> None:
    host = Reads(tmp_path, max_rounds=1)
    host.seen = []
    outcomes = run(host, Reuses(tmp_path, is_feature_trainable=False))
    for each in outcomes:
        if isinstance(each, BaseException):
            raise each
    assert host.seen == [(number, number) for number in range(BATCHES)]
