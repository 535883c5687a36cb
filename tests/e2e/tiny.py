"""A task of a few dozen rows, for tests of what happens around the training.

Parties run as threads of this process, over the real Unix socket; what needs a process of its own
(signals, kill -9, exit codes) runs this file: `python -m tests.e2e.tiny host|collaborator TASK
RESULTS [WHAT]`.
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from heterofed import (
    HeteroNNCollaboratorScheduler,
    HeteroNNHostScheduler,
    TaskResult,
    register_metrics,
)
from heterofed.messaging.party import Party
from heterofed.runs.scheduler import Scheduler

IDS = [f"id-{number:03}" for number in range(60)]
BATCH = 16


def rows(ids: list[str], columns: int, salt: int) -> Tensor:
    """Some numbers that depend on the id alone."""
    numbers = torch.tensor([int(each[3:]) + salt for each in ids], dtype=torch.float32)[:, None]
    return torch.sin(numbers * torch.arange(1, columns + 1))


class TinyHost(HeteroNNHostScheduler):
    """Two columns of its own and the labels."""

    batch = BATCH

    def __init__(self, results: Path, **settings: Any) -> None:
        settings = {
            "feature_key": "alice",
            "max_rounds": 2,
            "join_timeout": 60,
            "seed": 0,
            **settings,
        }
        super().__init__(results_dir=results, **settings)

    def load_local_ids(self) -> list[str]:
        return IDS[:50]

    def make_feature_model(self) -> nn.Module:
        return nn.Linear(2, 3)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(feature_model.parameters(), lr=0.1)

    def make_infer_model(self) -> nn.Module:
        return nn.LazyLinear(1)

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(infer_model.parameters(), lr=0.1)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), self.batch):
            ids = train_ids[start : start + self.batch]
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids])
            yield feature_model(rows(ids, 2, 0)), labels

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
        yield from self.iterate_train_feature(feature_model, test_ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        fused = torch.cat(list(feature_projection.values()), dim=1)
        output = self.infer_model(fused).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(output, labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    @register_metrics(name="quality", keys=["accuracy"])
    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        right, count = torch.tensor(0), 0
        for projection, labels in zip(batched_feature_projections, batched_labels, strict=True):
            output = self.infer_model(torch.cat(list(projection.values()), dim=1)).squeeze(1)
            right = right + ((output > 0) == (labels > 0.5)).sum()
            count += len(labels)
        self.get_metrics("quality").append_metrics_item({"accuracy": right / count})


class TinyCollaborator(HeteroNNCollaboratorScheduler):
    """Three columns, other rows."""

    batch = BATCH

    def __init__(self, results: Path, feature_key: str = "bob", **settings: Any) -> None:
        settings = {"join_timeout": 60, "seed": 0, **settings}
        super().__init__(feature_key, results_dir=results, **settings)

    def load_local_ids(self) -> list[str]:
        return IDS[:9:-1]

    def make_feature_model(self) -> nn.Module:
        return nn.Linear(3, 4)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(feature_model.parameters(), lr=0.1)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), self.batch):
            yield feature_model(rows(train_ids[start : start + self.batch], 3, 7))

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
        yield from self.iterate_train_feature(feature_model, test_ids)


Outcome = TaskResult | BaseException


def with_settings(scheduler: Any, **settings: Any) -> Any:
    """The scheduler, as if its constructor had been given other settings."""
    engine = scheduler._heterofed
    engine.settings = replace(engine.settings, **settings)
    return scheduler


def training_by(scheduler: Any, **methods: Any) -> Any:
    """The scheduler, with some steps of its training replaced by others: `method(task, ...)`."""
    engine = scheduler._heterofed
    engine.training = type("Replaced", (engine.training,), methods)
    return scheduler


def run(*schedulers: Scheduler, task: str = "tiny", timeout: float = 110.0) -> list[Any]:
    """Run parties as threads; gives each one's result, or the exception that ended it."""
    outcomes: list[Any] = [None] * len(schedulers)

    def launch(index: int, scheduler: Scheduler) -> None:
        try:
            outcomes[index] = scheduler.launch_task(task)
        except BaseException as error:  # handed to the test
            outcomes[index] = error

    threads = [
        threading.Thread(target=launch, args=pair, daemon=True) for pair in enumerate(schedulers)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), f"still running: {outcomes}"
    return outcomes


def slow_batches(scheduler: Any, pause: float = 0.05, most: int | None = None) -> None:
    """Give a test time to do something to a party that trains; `most` pauses, or one per batch."""
    pauses = iter([pause] * most) if most is not None else itertools.repeat(pause)
    original = scheduler.iterate_train_feature

    def iterate(feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for number, item in enumerate(original(feature_model, train_ids)):
            print(f"batch {number}", flush=True)
            time.sleep(next(pauses, 0))
            yield item

    scheduler.iterate_train_feature = iterate


def fill_disk(scheduler: Any, after: int) -> None:
    """Let no file of this process grow beyond a few bytes, once a round has passed."""

    def on_round_end() -> None:
        if scheduler.current_round > after:
            print("full", flush=True)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    scheduler.on_round_end = on_round_end


def die(*_: object) -> None:
    """As `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_writing(scheduler: Any, after: int) -> None:
    """Die while a file is written, before it has its name, once so many rounds have passed."""

    def on_round_end() -> None:
        if scheduler.current_round > after:
            os.fsync = die  # type: ignore[assignment]

    scheduler.on_round_end = on_round_end


def main() -> None:
    role, task, results, *what = sys.argv[1:]
    scheduler: Any
    if role == "host" and "patient" in what:
        scheduler = TinyHost(Path(results), max_rounds=4, log_rounds=1, wait_for_peers=60)
    elif role == "host" and "besieged" in what:
        scheduler = TinyHost(Path(results), join_timeout=0, insecure="insecure" in what)
    elif role == "host":
        rounds = 100 if {"slow", "long"} & {*what} else 2
        protocol = "ecdh" if "ecdh" in what else "rsa"
        scheduler = TinyHost(Path(results), max_rounds=rounds, psi_protocol=protocol)
    else:
        scheduler = TinyCollaborator(Path(results))
    if "slow" in what:
        slow_batches(scheduler, 0.3)
    if "torn" in what:
        die_writing(scheduler, after=2)
    if "mute" in what:
        Party.leave = die  # type: ignore[method-assign, assignment]
    if "full" in what:
        fill_disk(scheduler, after=1)
    if "long" in what:
        slow_batches(scheduler, 0.01)
    scheduler.launch_task(task)


if __name__ == "__main__":
    main()
