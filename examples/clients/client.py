"""A client: a convolutional network, trained on this client's own images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it F
from torch import Tensor, nn

from examples.clients.data import Images
from heterofed.homo_nn import HomoNNCollaboratorScheduler

BATCH = 64


class Net(nn.Module):
    """A small network for images of digits: [rows, 1, 28, 28] -> [rows, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 8, stride=2, padding=3)
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2)
        self.fc1 = nn.Linear(512, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """One pass."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2, stride=1)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2, stride=1)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]


def accuracy(model: nn.Module, test: Images) -> float:
    """The share of test images whose digit the model says; without gradients."""
    with torch.no_grad():
        parts = zip(torch.split(test.images, 1000), torch.split(test.labels, 1000), strict=True)
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)
    return right / len(test)


class Client(HomoNNCollaboratorScheduler):
    """Trains on its own images, and tests on images that all clients share."""

    def __init__(self, name: str, train: Images, test: Images, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.images, self.tests = train, test

    def make_model(self) -> nn.Module:
        return Net()

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)

    def train_a_round(self, model: nn.Module) -> Any:
        total = 0.0
        for rows in torch.split(torch.randperm(len(self.images)), BATCH):
            self.optimizer.zero_grad()
            loss: Any = F.cross_entropy(model(self.images.images[rows]), self.images.labels[rows])
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(rows)
        return {"rows": len(self.images), "loss": total / len(self.images)}

    def test(self, model: nn.Module) -> dict[str, float]:
        return {"rows": len(self.tests), "accuracy": accuracy(model, self.tests)}
