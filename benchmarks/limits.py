"""How soon a limit on the label leak ends a run that leaks, and how often one that does not.

    python -m benchmarks.limits --data DEFAULT_CREDIT_FOLDER --json

`stopped_after_share` is of a real run of two parties in one process on `default_credit` without a
defence, whose terms say `max_label_auc` (0.65): the share of its batches whose gradients were sent
before the Host ended the task. `raised_after_share` is the same where the terms let it raise its
defence, and `auc_after_raises` the measured mean AUC of what it sent afterwards.

`false_alarms` is the number of `--runs` (100) runs that the limit would end though their true leak
is `--true` (0.55). Their gradients are those of a real run, with Gaussian noise whose size is
calibrated until the best attack on it, that by directions, has that AUC on average; each run draws
its own noise for `--batches` batches. `alarms_at_limit` counts the same where the true leak is
exactly the limit, where the test promises at most one in a thousand.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from benchmarks.privacy_tasks import Task, bottom, credit
from heterofed import Batch, HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.errors import LeakLimitError
from heterofed.privacy.label_attacks import cosine_leak
from heterofed.privacy.leak_meters import LabelMeter
from heterofed.privacy.leak_tests import LeakTest
from heterofed.simulation.simulate import simulate

Pair = tuple[Tensor, Tensor]


class Host(HeteroNNHostScheduler):
    """The labels and half of the columns; it keeps the gradients before they are measured."""

    def __init__(self, task: Task, **settings: Any) -> None:
        super().__init__("bank", seed=0, leak_report="off", psi_protocol="ecdh", **settings)
        self.data, self.trained = task, 0

    def load_local_ids(self) -> list[str]:
        return [f"{place:06}" for place in range(len(self.data.labels))]

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        ids = sorted(id_intersection)
        return set(ids[: self.data.train]), set(ids[self.data.train :])

    def make_feature_model(self) -> nn.Module:
        return bottom(self.data.host.shape[1], self.data.width)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.Adam(feature_model.parameters(), self.data.rate)

    def make_infer_model(self) -> nn.Module:
        width = self.data.width
        return nn.Sequential(nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return optim.Adam(infer_model.parameters(), self.data.rate)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            rows = torch.tensor([int(each) for each in ids])
            yield Batch(feature_model(self.data.host[rows]), self.data.labels[rows], ids)

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
        yield from self.iterate_train_feature(feature_model, test_ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        output = self.infer_model(torch.cat(list(feature_projection.values()), 1))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(output, labels.float())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.trained += 1
        return loss

    def test(self, batched_feature_projections: list[Any], batched_labels: list[Any]) -> None:
        pass


class Collaborator(HeteroNNCollaboratorScheduler):
    """The other columns; it keeps the gradients that it gets."""

    def __init__(self, task: Task, **settings: Any) -> None:
        super().__init__("shop", seed=1, leak_report="off", **settings)
        self.data, self.got = task, list[Pair]()
        self.rows = torch.empty(0)

    load_local_ids = Host.load_local_ids
    split_dataset = Host.split_dataset

    def make_feature_model(self) -> nn.Module:
        return bottom(self.data.collaborator.shape[1], self.data.width)

    make_feature_optimizer = Host.make_feature_optimizer

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            self.rows = torch.tensor([int(each) for each in ids])
            yield Batch(feature_model(self.data.collaborator[self.rows]), ids=ids)

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
        yield from self.iterate_train_feature(feature_model, test_ids)

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        self.got.append((gradients.detach().clone(), self.data.labels[self.rows]))
        super().update_feature_model(features, gradients)


def train(task: Task, args: Any, rounds: int, limits: dict[str, Any]) -> tuple[int, list[Pair]]:
    """How many batches' gradients were sent, and these with the labels of their rows."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"results_dir": folder}
        host = Host(task, max_rounds=rounds, batch_size=args.batch, limits=limits, **settings)
        shop = Collaborator(task, **settings)
        try:
            simulate(host, [shop], task_id="limits")
        except LeakLimitError as error:
            print(error, file=sys.stderr)
        return len(shop.got), shop.got


def mean_auc(pairs: list[Pair]) -> float:
    found = [cosine_leak(sent, labels).item() for sent, labels in pairs]
    return float(torch.tensor(found).nanmean())


def noisy(clean: Tensor, std: float) -> Tensor:
    sent: Tensor = clean + std * clean.norm(dim=1).mean() * torch.randn_like(clean)
    return sent


def calibrated(pairs: list[Pair], wanted: float) -> float:
    """The noise with which the attack by directions has this AUC on average."""

    def auc_of(std: float) -> float:
        found = [
            cosine_leak(noisy(clean, std), labels, clean=clean).item()
            for clean, labels in pairs * 3
        ]
        return float(torch.tensor(found).nanmean())

    low, high = 1e-3, 100.0
    for _ in range(20):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if auc_of(middle) > wanted else (low, middle)
    return high


def alarms(pairs: list[Pair], limit: float, std: float, args: Any) -> tuple[int, float]:
    """In how many runs the limit is found to be exceeded, and the seconds a batch."""
    found, began = 0, time.process_time()
    for seed in range(args.runs):
        torch.manual_seed(seed)
        test, meter = LeakTest(limit), LabelMeter()
        for number in range(args.batches):
            clean, labels = pairs[number % len(pairs)]
            for each in meter.measured(noisy(clean, std), clean, labels, test.parts).parts:
                test.add(each)
            if test.found() is not None:
                found += 1
                break
    return found, (time.process_time() - began) / (args.runs * args.batches)


def measured(args: Any) -> dict[str, Any]:
    task = credit(args.data, args.rows)
    each = -(-task.train // args.batch)
    total = each * args.rounds
    sent, _ = train(task, args, args.rounds, {"max_label_auc": args.limit})
    raises = {"max_label_auc": args.limit, "raise_defence": True}
    rounds = max(1, args.rounds // 5)
    batches, got = train(task, args, rounds, raises)
    _, pairs = train(task, args, 1, {})
    torch.manual_seed(0)
    std = calibrated(pairs, args.true)
    false, cost = alarms(pairs, args.limit, std, args)
    at_limit, _ = alarms(pairs, args.limit, calibrated(pairs, args.limit), args)
    return {
        "limit": args.limit,
        "batches": total,
        "stopped_after_batches": sent,
        "stopped_after_share": sent / total,
        "batches_where_raised": batches,
        "auc_after_raises": mean_auc(got[-each // 2 :]),
        "true_leak": args.true,
        "runs": args.runs,
        "batches_of_a_run": args.batches,
        "false_alarms": false,
        "alarms_at_limit": at_limit,
        "ms_per_batch": 1000 * cost,
    }


def show(found: dict[str, Any], *, as_json: bool) -> None:
    """Print figures as JSON, or one in a line."""
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(f"{name:22} {value}" for name, value in found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of guest.csv and host.csv")
    parser.add_argument("--limit", type=float, default=0.65, help="max_label_auc")
    parser.add_argument("--true", type=float, default=0.55, help="the leak of runs without alarm")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--batches", type=int, default=470, help="of each of these runs")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", type=int, help="only so many rows")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    show(measured(args), as_json=args.json)


if __name__ == "__main__":
    main()
