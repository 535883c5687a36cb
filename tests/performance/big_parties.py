"""One party of a task whose batches are 100 MB each, as a process: prints how its memory grew.

python -m tests.performance.big_parties host|collaborator TASK RESULTS trainable|frozen
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from heterofed.events import Event, PhaseBegan, PhaseEnded
from tests.e2e.tiny import TinyCollaborator, TinyHost

ROWS, WIDTH, BATCHES = 1000, 25_000, 5
BATCH_MB = ROWS * WIDTH * 4 / 1e6


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def numbers(model: Any) -> Tensor:
    """Features that hold on to nothing: `expand` saves no tensor, and makes none until it must."""
    column: Tensor = model(torch.ones(1, 1))
    return column.expand(ROWS, WIDTH).contiguous()


class Host(TinyHost):
    def make_feature_model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for _ in range(BATCHES):
            yield feature_model(torch.ones(ROWS, 1)), torch.ones(ROWS)

    def make_infer_model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        loss = feature_projection["alice"].mean() + feature_projection["bob"].sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
        raise AssertionError("tests are batch by batch here")

    def test_a_batch(self, feature_projection: dict[str, Tensor], labels: Any) -> None:
        assert feature_projection["bob"].shape == (ROWS, WIDTH)

    def end_test(self) -> None:
        pass


class Collaborator(TinyCollaborator):
    def make_feature_model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for _ in range(BATCHES):
            yield numbers(feature_model)


def main() -> None:
    role, task, results, kind = sys.argv[1:]
    before: dict[str, float] = {}

    def note(event: Event) -> None:
        if isinstance(event, PhaseBegan):
            before.setdefault(event.phase, peak_mb())
        elif isinstance(event, PhaseEnded) and event.phase in ("train", "test"):
            print(f"{event.phase} grew {peak_mb() - before['train']:.0f} MB", flush=True)

    settings: dict[str, Any] = {"callbacks": [note]}
    party: Any
    if role == "host":
        party = Host(Path(results), max_rounds=1, **settings)
    else:
        trainable = kind == "trainable"
        party = Collaborator(Path(results), is_feature_trainable=trainable, **settings)
        if trainable:
            party.make_feature_optimizer = lambda model: optim.SGD(model.parameters(), lr=1e-9)
    torch.set_num_threads(1)
    party.launch_task(task)


if __name__ == "__main__":
    main()
