"""How long a round takes if several processes compute a party's feature model.

    python -m benchmarks.workers --json

A Collaborator trains the large half of `benchmarks.gpu` on the CPU, with a Host that has little to
do, in one process and then in several. They share the cores: one process uses all of them for each
operation, several use each their part of them for their rows. All ways are measured in turn,
`--repeats` times over; figures are medians without the first round of each run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS, BATCH = 512, 128


def parties(results: Path, rounds: int, workers: int, note: Any) -> tuple[Any, Any]:
    """The Host, which has labels alone, and the Collaborator."""
    import torch
    import torch.nn.functional as F  # noqa: N812
    from torch import nn, optim

    from benchmarks.gpu import make_nets
    from heterofed import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler

    ids = [f"{number:04}" for number in range(ROWS)]
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(ROWS, 3, 64, 32, generator=generator)
    labels = torch.randint(10, (ROWS,), generator=generator)

    class Hooks:
        def load_local_ids(self) -> list[str]:
            return ids

        def split_dataset(self, names: set[str]) -> tuple[set[str], set[str]]:
            return set(ids), set(ids[:8])

        def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
            return optim.SGD(model.parameters(), lr=0.01)

        def cuts(self, names: list[str]) -> Iterator[Any]:
            return iter(torch.split(torch.tensor([int(each) for each in names]), BATCH))

    class Host(Hooks, HeteroNNHostScheduler):
        def make_feature_model(self) -> None:
            return None

        def make_feature_optimizer(self, feature_model: Any) -> None:
            return None

        def make_infer_model(self) -> nn.Module:
            return nn.Linear(256, 10)

        def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
            return self.make_optimizer(infer_model)

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            return ((None, labels[places]) for places in self.cuts(train_ids))

        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
            return self.iterate_train_feature(feature_model, test_ids)

        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.infer_model(*feature_projection.values()), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            return loss

        def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
            pass

    class Collaborator(Hooks, HeteroNNCollaboratorScheduler):
        def make_feature_model(self) -> Any:
            return make_nets("large", 1)[0]

        def make_feature_optimizer(self, feature_model: Any) -> optim.Optimizer:
            return self.make_optimizer(feature_model)

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            return (feature_model(images[places]) for places in self.cuts(train_ids))

        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
            return self.iterate_train_feature(feature_model, test_ids)

    host = Host("host", max_rounds=rounds, results_dir=results, callbacks=[note], seed=1)
    return host, Collaborator("shop", results_dir=results, feature_workers=workers, seed=1)


def seconds(rounds: int, workers: int) -> float:
    """Seconds of a round of one run."""
    from heterofed.events import PhaseEnded

    ended: list[float] = []

    def note(event: object) -> None:
        if isinstance(event, PhaseEnded) and event.phase == "train":
            ended.append(event.seconds)

    with tempfile.TemporaryDirectory() as folder:
        host, shop = parties(Path(folder), rounds, workers, note)
        other = threading.Thread(target=host.launch_task, args=["workers"])
        other.start()
        shop.launch_task("workers")
        other.join()
    return statistics.median(ended[1:])


def main() -> None:
    import logging

    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=4, help="of each run; the first warms up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    logging.getLogger("heterofed").setLevel(logging.ERROR)
    load, found = os.getloadavg()[0], dict[int, list[float]]()
    with tempfile.TemporaryDirectory(prefix="hf", dir="/tmp") as home:
        os.environ["HETEROFED_HOME"] = home
        for _ in range(args.repeats):
            for workers in args.workers:
                found.setdefault(workers, []).append(seconds(args.rounds, workers))
    typical = {workers: statistics.median(each) for workers, each in found.items()}
    result = {"load_before": load, "threads": torch.get_num_threads(), "seconds": typical}
    print(json.dumps(result, indent=1) if args.json else result)


if __name__ == "__main__":
    main()
