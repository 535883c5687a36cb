"""Four points, two of them at each of two parties in this process: python -m examples.virtual"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from heterofed import simulate
from heterofed.homo_nn import HomoNNCollaboratorScheduler, HomoNNHostScheduler

POINTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TARGETS = torch.tensor([[0.0], [0.0], [1.0], [1.0]])


class Worker(HomoNNCollaboratorScheduler):
    x: Tensor
    y: Tensor

    def make_model(self) -> nn.Module:
        return nn.Linear(2, 1)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.2)

    def train_a_round(self, model: nn.Module) -> dict[str, float]:
        self.optimizer.zero_grad()
        loss: Any = (model(self.x) - self.y).square().mean()
        loss.backward()
        self.optimizer.step()
        return {"rows": len(self.x), "loss": loss.item()}


def train(rounds: int = 20) -> list[float]:
    """The mean loss of each round."""
    bob, alice = Worker("bob", seed=1), Worker("alice", seed=2)
    bob.x, bob.y = POINTS[:2], TARGETS[:2]
    alice.x, alice.y = POINTS[2:], TARGETS[2:]
    host = HomoNNHostScheduler("host", max_rounds=rounds, collaborators=2, seed=0)
    done = simulate(host, [bob, alice], task_id="virtual")
    losses: list[float] = done.results["host"].frame("train")["loss"].tolist()
    return losses
