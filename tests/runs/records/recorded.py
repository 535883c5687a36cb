"""Parties that record their runs, with random layers and with optimizers that have state."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from heterofed import Batch
from heterofed.runs.records.keys import FOLDER as KEYS
from heterofed.runs.records.segments import FOLDER
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows, slow_batches

TASK = "tiny"


class RecordingHost(TinyHost):
    """A Host with dropout, momentum and agreed batches."""

    factor = 1.0

    def __init__(self, results: Path, **settings: Any) -> None:
        common = {"record": "inbound", "psi_protocol": "ecdh", "batch_size": 8, "shuffle": True}
        super().__init__(results, **{**common, "max_rounds": 3, "log_rounds": 1, **settings})

    def make_feature_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Dropout(0.3))

    def make_infer_model(self) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 1))

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return optim.Adam(infer_model.parameters(), lr=0.01)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids])
            yield Batch(feature_model(rows(ids, 2, 0)), labels, ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        scaled = {name: self.factor * each for name, each in feature_projection.items()}
        return super().train_a_batch(scaled, labels)


class RecordingCollaborator(TinyCollaborator):
    """A Collaborator with dropout and momentum."""

    wrong: tuple[int, int] | None = None

    def __init__(self, results: Path, feature_key: str = "bob", **settings: Any) -> None:
        super().__init__(results, feature_key, **{"record": "inbound", **settings})

    def make_feature_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 4))

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(feature_model.parameters(), lr=0.1, momentum=0.9)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        first = self._heterofed.run.batch if self._heterofed.run else 0
        for number, ids in enumerate(self.batches(train_ids), first):
            columns = rows(ids, 3, 7)
            if (self.current_round, number) == self.wrong:
                columns[5, 1] += 0.5
            yield Batch(feature_model(columns), None, ids)


def folder_of(results: Path, party: str) -> Path:
    return results / TASK / party


def files(results: Path, party: str) -> list[Path]:
    return sorted((folder_of(results, party) / FOLDER).iterdir())


def keys(home: Path) -> list[Path]:
    return sorted((home / KEYS).iterdir())


ROUNDS = 8
"""The rounds of a run of processes."""


def made(party: str, results: Path) -> Any:
    """The parties of a run of processes."""
    if party == "alice":
        given = {"wait_for_peers": 60, "max_rounds": ROUNDS, "checkpoint_batches": 2}
        return RecordingHost(results, max_staleness=1, **given)
    return RecordingCollaborator(results)


def main() -> None:
    """Be one party: `python -m tests.runs.records.recorded ROLE RESULTS`."""
    role, results = sys.argv[1:3]
    torch.set_num_threads(1)
    party = made("alice" if role == "host" else "bob", Path(results))
    slow_batches(party, 0.1)
    party.launch_task(TASK)


if __name__ == "__main__":
    main()
