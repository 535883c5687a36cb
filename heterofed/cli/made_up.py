"""A task of made-up rows, whose training steps are timed; both halves run in this process."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from heterofed.events import Event, PhaseBegan, PhaseEnded
from heterofed.files import temporary_folder
from heterofed.hetero_nn import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.protocol.messages import Work
from heterofed.simulation.simulate import simulate

STEPS = 50
"""About the number of batches in a measured round."""

MOST_ROWS = 50_000
"""The largest number of made-up rows, so that a probe takes seconds."""


@dataclass(frozen=True, slots=True)
class Timed:
    """The number of batches that were timed, and their seconds."""

    batches: int
    seconds: float


class _Clock:
    """Adds up the seconds of a Host's training phases after the first, which warms up."""

    def __init__(self) -> None:
        self.rounds: list[float] = []
        self._began = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case PhaseBegan(phase="train"):
                self._began = time.perf_counter()
            case PhaseEnded(phase="train"):
                self.rounds.append(time.perf_counter() - self._began)
            case _:
                pass


class MadeUpHost(HeteroNNHostScheduler):
    """A Host with one dense layer on the Collaborator's features."""

    def __init__(self, ids: list[str], work: Work, **settings: Any) -> None:
        settings = {"feature_key": "host", "leak_report": "off", **settings}
        super().__init__(batch_size=work.batch_size, **settings)
        self.ids, self.width = ids, work.width

    def load_local_ids(self) -> list[str]:
        return self.ids

    def make_feature_model(self) -> None:
        return None

    def make_feature_optimizer(self, feature_model: nn.Module) -> None:  # noqa: ARG002
        return None

    def make_infer_model(self) -> nn.Module:
        return nn.Linear(self.width, 1)

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(infer_model.parameters(), lr=0.01)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:  # noqa: ARG002
        for ids in self.batches(train_ids):
            yield None, torch.zeros(len(ids))

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
        yield from self.iterate_train_feature(feature_model, test_ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        output = self.infer_model(next(iter(feature_projection.values()))).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(output, labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
        pass


class MadeUpCollaborator(HeteroNNCollaboratorScheduler):
    """A Collaborator with two dense layers."""

    def __init__(self, ids: list[str], work: Work, **settings: Any) -> None:
        settings = {"feature_key": "shop", "leak_report": "off", **settings}
        super().__init__(**settings)
        self.ids, self.work = ids, work
        self.rows = torch.zeros(work.batch_size, work.columns)

    def load_local_ids(self) -> list[str]:
        return self.ids

    def make_feature_model(self) -> nn.Module:
        width = self.work.width
        return nn.Sequential(
            nn.Linear(self.work.columns, width), nn.ReLU(), nn.Linear(width, width)
        )

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(feature_model.parameters(), lr=0.01)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            yield feature_model(self.rows[: len(ids)])

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
        yield from self.iterate_train_feature(feature_model, test_ids)


def timed_steps(work: Work) -> Timed:
    """Train two rounds on made-up rows, and return the time of the second one."""
    rows = min(STEPS * work.batch_size, MOST_ROWS)
    ids = [f"{number:06}" for number in range(rows)]
    clock = _Clock()
    with temporary_folder() as folder:
        host = MadeUpHost(
            ids, work, max_rounds=2, psi_protocol="ecdh", results_dir=folder, callbacks=[clock]
        )
        shop = MadeUpCollaborator(ids, work, results_dir=folder)
        result = simulate(host, [shop], task_id="probe").results["host"]
    return Timed(math.ceil(result.train_rows / work.batch_size), clock.rounds[-1])
