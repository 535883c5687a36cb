"""The Collaborator of the MNIST example: the right halves, no labels.

python -m examples.mnist_split.collaborator   # and, in another terminal:
python -m examples.mnist_split.host
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn, optim

from heterofed import Batch, HeteroNNCollaboratorScheduler

from .data import load_halves, split_ids
from .host import arguments
from .nets import HalfNet


class MnistCollaborator(HeteroNNCollaboratorScheduler):
    """Holds the right half of every image."""

    def __init__(
        self, data_dir: Path, limit: tuple[int, int] | None = None, **settings: Any
    ) -> None:
        super().__init__(feature_key="demo_collaborator", **settings)
        self.half = load_halves(data_dir, "right", limit=limit)

    def load_local_ids(self) -> list[str]:
        return self.half.ids

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return split_ids(id_intersection)

    def make_feature_model(self) -> nn.Module:
        return HalfNet()

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(feature_model.parameters(), lr=0.01, momentum=0.1)

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Batch]:
        for ids in self.batches(train_ids):  # as many rows as the Host says
            images, _, loaded = self.half.take(ids)
            yield Batch(feature_model(images), ids=loaded)

    def iterate_test_feature(
        self, feature_model: nn.Module, test_ids: list[str]
    ) -> Iterator[Batch]:
        yield from self.iterate_train_feature(feature_model, test_ids)


if __name__ == "__main__":
    given = arguments(__doc__).parse_args()
    scheduler = MnistCollaborator(
        given.data,
        limit=tuple(given.limit) if given.limit else None,
        results_dir=given.results,
    )
    scheduler.launch_task(task_id=given.task)
