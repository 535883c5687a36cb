"""What each Collaborator costs the Host: CPU time of gather and scatter, for 1 to 16 of them.

    python -m benchmarks.parties --json

The Collaborators are threads of one other process, with features that cost nothing to make, so
that the Host's own work is all that is measured: its process's CPU seconds in training without
those spent in hooks, per batch. `first_ms` is what the first Collaborator costs, `extra_ms` what
each further one adds, up to each number of parties; `extra_ratio` is the largest extra_ms over
first_ms. Runs are taken in turn, `--repeats` times over; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from heterofed import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.events import Event, PhaseBegan, PhaseEnded

IDS = [f"name-{number}" for number in range(8)]
COUNTS = (1, 2, 4, 8, 16)


def cut(ids: set[str]) -> tuple[set[str], set[str]]:
    return set(list(ids)[:-1]), set(list(ids)[-1:])


class Crowd(HeteroNNCollaboratorScheduler):
    """One of many: the same features for each batch, and nothing to learn."""

    def __init__(self, *args: Any, batches: int, rows: int, width: int, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.shape, self.count = (rows, width), batches

    def load_local_ids(self) -> list[str]:
        return IDS

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return cut(id_intersection)

    def make_feature_model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(feature_model.parameters(), lr=0.0)

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Any]:
        rows, width = self.shape
        for _ in range(self.count if len(train_ids) > 1 else 1):
            yield torch.full((rows, width), 0.5, requires_grad=True)

    def iterate_test_feature(self, feature_model: nn.Module, test_ids: list[str]) -> Iterator[Any]:
        yield from self.iterate_train_feature(feature_model, test_ids)

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        pass


class Host(HeteroNNHostScheduler):
    """Adds the features up, so that its own half costs as little as can be."""

    def __init__(self, *args: Any, batches: int, rows: int, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.rows, self.count = rows, batches

    def load_local_ids(self) -> list[str]:
        return IDS

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return cut(id_intersection)

    def make_feature_model(self) -> None:
        return None

    def make_feature_optimizer(self, feature_model: Any) -> None:
        return None

    def make_infer_model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(infer_model.parameters(), lr=0.0)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for _ in range(self.count if len(train_ids) > 1 else 1):
            yield None, torch.zeros(self.rows)

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
        yield from self.iterate_train_feature(feature_model, test_ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Any) -> Any:
        torch.stack(list(feature_projection.values())).sum().backward()  # type: ignore[no-untyped-call]

    def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
        pass


def crowd(task: str, count: int, options: dict[str, int], folder: str) -> None:
    """The other process."""
    parties = [
        Crowd(f"party-{number:02}", results_dir=folder, join_timeout=60, **options)
        for number in range(count)
    ]
    threads = [threading.Thread(target=each.launch_task, args=(task,)) for each in parties]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run(count: int, args: Any, folder: Path) -> float:
    """CPU milliseconds per batch that the Host spent outside of hooks, with `count` parties."""
    task = f"crowd-{secrets.token_hex(4)}"
    options = {"batches": args.batches, "rows": args.rows, "width": args.width}
    at: dict[str, float] = {}

    def note(event: Event) -> None:
        if isinstance(event, PhaseBegan) and (event.phase, event.round) == ("train", 2):
            at["began"] = time.process_time()
        elif isinstance(event, PhaseEnded) and (event.phase, event.round) == ("train", 2):
            at["spent"] = time.process_time() - at["began"] - event.compute

    orders = json.dumps([task, count, options, str(folder)])
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.parties", "--crowd", orders],
        stderr=subprocess.DEVNULL,
    ) as others:
        Host(
            "host",
            max_rounds=2,
            collaborators=count,
            join_timeout=60,
            psi_protocol="ecdh",
            results_dir=folder,
            callbacks=[note],
            batches=args.batches,
            rows=args.rows,
        ).launch_task(task)
        others.wait(60)
    return at["spent"] / int(args.batches) * 1e3


def measure(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    spent: dict[int, list[float]] = {count: [] for count in args.counts}
    with tempfile.TemporaryDirectory(prefix="hfb") as folder:
        os.environ["HETEROFED_HOME"] = folder
        for _ in range(args.repeats):
            for count in args.counts:
                spent[count].append(run(count, args, Path(folder) / "runs"))
    typical = {count: statistics.median(each) for count, each in spent.items()}
    first = typical[args.counts[0]] / args.counts[0]
    extra = {
        count: (each - typical[args.counts[0]]) / (count - args.counts[0])
        for count, each in typical.items()
        if count > args.counts[0]
    }
    return {
        "batch": {"rows": args.rows, "width": args.width, "batches": args.batches},
        "ms_per_batch": typical,
        "ms_per_party": {count: each / count for count, each in typical.items()},
        "first_ms": first,
        "extra_ms": extra,
        "extra_ratio": max(extra.values()) / first,
        "load_before": os.getloadavg()[0],
    }


def show(result: dict[str, Any]) -> None:
    for count, each in result["ms_per_batch"].items():
        print(f"{count:>3} parties {each:8.3f} ms a batch {each / count:8.3f} ms a party")
    print(f"each further party costs at most {result['extra_ratio']:.2f} times the first")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parties", description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--batches", type=int, default=200, help="of the round that is measured")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--crowd", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.crowd:
        crowd(*json.loads(args.crowd))
        return
    result = measure(args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
