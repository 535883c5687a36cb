"""Horizontal parties with a few rows each: linear models of the same columns."""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heterofed import simulate
from heterofed.compute.streams import random_stream
from heterofed.homo_nn import HomoNNCollaboratorScheduler, HomoNNHostScheduler
from heterofed.simulation.simulate import Simulation


def rows(number: int, count: int) -> tuple[Tensor, Tensor]:
    """The rows of a party, float64."""
    with random_stream(number, "rows"):
        x = torch.randn(count, 3, dtype=torch.float64)
        return x, x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.1 * torch.randn(
            count, dtype=torch.float64
        )


def model() -> nn.Linear:
    return nn.Linear(3, 1, dtype=torch.float64)


def loss_of(made: nn.Module, x: Tensor, y: Tensor) -> Any:
    return nn.functional.mse_loss(made(x).squeeze(1), y)


class Party(HomoNNCollaboratorScheduler):
    """Takes `steps` full-batch steps a round; with `momentum` its optimizer has a state."""

    def __init__(
        self,
        results: Path,
        name: str,
        number: int,
        *,
        count: int = 8,
        steps: int = 1,
        momentum: float = 0.0,
        pause: float = 0.0,
        **settings: Any,
    ) -> None:
        settings = {"seed": number, "results_dir": results, "join_timeout": 60, **settings}
        super().__init__(name, **settings)
        self.x, self.y = rows(number, count)
        self.steps, self.momentum, self.pause = steps, momentum, pause

    def make_model(self) -> nn.Module:
        return model()

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=self.momentum)

    def train_a_round(self, model: nn.Module) -> Any:
        time.sleep(self.pause)
        print(f"{self.feature_key} trains round {self.current_round}", flush=True)
        loss: Any = torch.zeros(())
        for _ in range(self.steps):
            self.optimizer.zero_grad()
            loss = loss_of(model, self.x + 0.01 * torch.randn_like(self.x), self.y)
            loss.backward()
            self.optimizer.step()
        return {"rows": len(self.x), "loss": float(loss.detach())}

    def test(self, model: nn.Module) -> dict[str, float]:
        return {"rows": len(self.x), "error": float(loss_of(model, self.x, self.y))}


class Plain(Party):
    """Without noise on its rows, so that one joined model can be compared."""

    def train_a_round(self, model: nn.Module) -> dict[str, float]:
        for _ in range(self.steps):
            self.optimizer.zero_grad()
            loss_of(model, self.x, self.y).backward()
            self.optimizer.step()
        return {"rows": len(self.x)}


class Gradients(Party):
    """Leaves a gradient, and takes no step."""

    def train_a_round(self, model: nn.Module) -> int:
        loss_of(model, self.x, self.y).backward()
        return len(self.x)


def host(results: Path, parties: int, rounds: int = 3, **settings: Any) -> HomoNNHostScheduler:
    given = {"seed": 1, "results_dir": results, "join_timeout": 60, **settings}
    return HomoNNHostScheduler("head", max_rounds=rounds, collaborators=parties, **given)


def run(first: HomoNNHostScheduler, parties: list[Any], task: str = "tiny") -> Simulation:
    return simulate(first, parties, task_id=task)


@functools.cache
def _load(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, weights_only=True)
    return found


def weights_of(done: Simulation, party: str = "head") -> Tensor:
    """All final weights of a party in one tensor."""
    state = _load(done.results[party].models["model"])
    return torch.cat([each.reshape(-1).to(torch.float64) for each in state.values()])


def main() -> None:
    role, results, *what = sys.argv[1:]
    pause = 0.3 if "slow" in what else 0.0
    if role == "head":
        patient = 60 if "patient" in what else 0
        secure = "secure" in what
        scheduler: Any = host(
            Path(results), 2, 6, wait_for_peers=patient, secure_aggregation=secure
        )
    else:
        number = int(role[-1])
        scheduler = Party(Path(results), role, number, steps=2, momentum=0.5, pause=pause)
    scheduler.launch_task("tiny")


if __name__ == "__main__":
    main()
