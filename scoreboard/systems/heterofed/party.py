"""heterofed: both parties of a job, as a user would write them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from heterofed import (
    Batch,
    HeteroNNCollaboratorScheduler,
    HeteroNNHostScheduler,
    register_metrics,
)
from scoreboard.shared.job import Job
from scoreboard.shared.nets import COLLABORATOR, HOST, TOP, features, loss_of, make, make_optimizer


class Party:
    """What both parties do with their rows."""

    part: str
    current_round: int

    def __init__(self, job: Job, **settings: Any) -> None:
        # The other base is a scheduler.
        arguments: Any = {"results_dir": job.folder / "results", **settings}
        super().__init__(self.part, **arguments)  # type: ignore[call-arg]
        self.job, self.data = job, job.rows(self.part)
        self.position = {each: row for row, each in enumerate(self.data.ids)}

    def load_local_ids(self) -> list[str]:
        self.job.begin(self.part)
        return self.data.ids

    def split_dataset(self, ids: set[str]) -> tuple[set[str], set[str]]:
        train = sorted(each for each in ids if each.startswith("a"))
        whole = len(train) // self.job.batch * self.job.batch  # a last, smaller batch is left out
        return set(train[:whole]), {each for each in ids if each.startswith("b")}

    def make_feature_model(self) -> nn.Module:
        return make(self.part, self.data.shape, self.job.classes)

    def make_feature_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return make_optimizer(self.part, model)

    def _batches(self, ids: list[str], size: int) -> Iterator[tuple[Tensor, Any, list[str]]]:
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            rows = [self.position[each] for each in part]
            yield self.data.x[rows], None if self.data.y is None else self.data.y[rows], part

    def iterate_train_feature(self, model: nn.Module, ids: list[str]) -> Iterator[Batch]:
        step = (self.current_round - 1) * (len(ids) // self.job.batch)
        for rows, labels, part in self._batches(ids, self.job.batch):
            yield Batch(features(self.part, model, rows, step), labels, part)
            step += 1

    def iterate_test_feature(self, model: nn.Module, ids: list[str]) -> Iterator[Batch]:
        for rows, labels, part in self._batches(ids, 1000):
            yield Batch(model(rows), labels, part)


class Host(Party, HeteroNNHostScheduler):
    """Labels, and its own columns."""

    part = HOST

    def make_infer_model(self) -> nn.Module:
        return make(TOP, (), self.job.classes)

    def make_infer_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return make_optimizer(TOP, model)

    def train_a_batch(self, projection: dict[str, Tensor], labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = loss_of(self.infer_model, projection[HOST], projection[COLLABORATOR], labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.job.note_step()
        return loss

    @register_metrics(name="test", keys=["rows"])
    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        both = [
            torch.cat([each[HOST], each[COLLABORATOR]], dim=1)
            for each in batched_feature_projections
        ]
        self.job.keep_scores([self.infer_model(each) for each in both])
        self.get_metrics("test").append_metrics_item({"rows": sum(map(len, batched_labels))})


class Collaborator(Party, HeteroNNCollaboratorScheduler):
    """Columns only."""

    part = COLLABORATOR


def main(part: str, folder: str) -> None:
    """Run a party, and keep its weights."""
    job = Job.read(folder)
    os.environ["HETEROFED_HOME"] = str(job.folder / f"home-{part}")
    if part == COLLABORATOR:
        party: Any = Collaborator(job)
    else:
        # One test at the end alone, as in the other systems; `once`: no hook changes gradients.
        party = Host(job, max_rounds=job.rounds, log_rounds=10**6, early_gradients="once")
    party.launch_task("scoreboard")
    job.keep(part, party.feature_model)
    if part == HOST:
        job.keep(TOP, party.infer_model)
