"""The Host of the MNIST example: the labels and the left halves.

python -m examples.mnist_split.host           # and, in another terminal:
python -m examples.mnist_split.collaborator
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it F
from torch import Tensor, nn, optim

from heterofed import Batch, HeteroNNHostScheduler, register_metrics
from heterofed.reporting.trackers.names import TRACKERS, trackers

from .data import load_halves, split_ids
from .nets import HalfNet, TopNet


class MnistHost(HeteroNNHostScheduler):
    """Holds the labels and the left half of every image."""

    def __init__(
        self, data_dir: Path, limit: tuple[int, int] | None = None, **settings: Any
    ) -> None:
        super().__init__(feature_key="demo_host", **{"batch_size": 128, **settings})
        self.half = load_halves(data_dir, "left", labels=True, limit=limit)

    def load_local_ids(self) -> list[str]:
        return self.half.ids

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return split_ids(id_intersection)

    def make_feature_model(self) -> nn.Module:
        return HalfNet()

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(feature_model.parameters(), lr=0.01, momentum=0.5)

    def make_infer_model(self) -> nn.Module:
        return TopNet()

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(infer_model.parameters(), lr=0.01, momentum=0.1)

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Batch]:
        for ids in self.batches(train_ids):
            images, labels, loaded = self.half.take(ids)
            yield Batch(feature_model(images), labels, loaded)

    def iterate_test_feature(
        self, feature_model: nn.Module, test_ids: list[str]
    ) -> Iterator[Batch]:
        yield from self.iterate_train_feature(feature_model, test_ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        fused = torch.cat(list(feature_projection.values()), dim=1)
        loss = F.nll_loss(self.infer_model(fused), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    @register_metrics(name="test", keys=["loss", "accuracy"])
    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        loss, correct = 0.0, 0
        for projection, labels in zip(batched_feature_projections, batched_labels, strict=True):
            output = self.infer_model(torch.cat(list(projection.values()), dim=1))
            loss += F.nll_loss(output, labels, reduction="sum").item()
            correct += int((output.argmax(dim=1) == labels).sum())
        rows = sum(len(labels) for labels in batched_labels)
        self.get_metrics("test").append_metrics_item(
            {"loss": loss / rows, "accuracy": correct / rows}
        )


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that both scripts take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--task", default="mnist_split", help="task id, the same for both")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of MNIST")
    parser.add_argument("--results", type=Path, default=Path("heterofed_runs"))
    parser.add_argument("--limit", type=int, nargs=2, metavar=("TRAIN", "TEST"), default=None)
    return parser


if __name__ == "__main__":
    options = arguments(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--track", choices=TRACKERS, action="append", default=[])
    options.add_argument("--psi-protocol", choices=("rsa", "ecdh"), default="rsa")
    given = options.parse_args()
    scheduler = MnistHost(
        given.data,
        limit=tuple(given.limit) if given.limit else None,
        max_rounds=given.rounds,
        log_rounds=1,
        psi_protocol=given.psi_protocol,
        early_gradients="once",  # train_a_batch leaves gradients as they are
        results_dir=given.results,
        callbacks=trackers(given.track),
    )
    scheduler.launch_task(task_id=given.task)
