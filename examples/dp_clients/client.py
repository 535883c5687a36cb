"""A client whose updates are differentially private, and the same training without the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it F
from torch import Tensor, nn

from examples.clients.client import Client, accuracy
from examples.clients.data import Images
from heterofed.privacy.dpsgd import DPSGD, poisson_batches

BATCH, DELTA = 64, 1e-5


class Net(nn.Sequential):
    """The network of the walkthrough: two convolutions with dropout.

    [rows, 1, 28, 28] -> [rows, 10]
    """

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(10, 20, 5), nn.Dropout2d(), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(320, 50), nn.ReLU(), nn.Dropout(), nn.Linear(50, 10),
        )  # fmt: skip


def noise() -> DPSGD:
    """Noise of 1.1 times the clipping norm 1.0, on batches in which each image is by chance."""
    return DPSGD(1.1, 1.0, batch_size=BATCH, delta=DELTA, poisson=True)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.15, momentum=0.5)


def step(model: nn.Module, optimizer: Any, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    loss: Any = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()


class PrivateClient(Client):
    """Trains with noise; `privacy.csv` of its results folder has epsilon after each round."""

    def __init__(self, name: str, train: Images, test: Images, **settings: Any) -> None:
        super().__init__(name, train, test, weights_defence=noise(), **settings)

    def make_model(self) -> nn.Module:
        return Net()

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return sgd(model)

    def train_a_round(self, model: nn.Module) -> int:
        for rows in self.poisson_batches(len(self.images), BATCH):
            step(model, self.optimizer, self.images.images[rows], self.images.labels[rows])
        return len(self.images)


def train_alone(train: Images, test: Images, rounds: int) -> list[float]:
    """Train as a client does, without any other party; return the accuracy after each round."""
    torch.manual_seed(0)
    defence = noise()
    model = defence.model(Net())
    optimizer, accuracies = defence.optimizer(sgd(model)), []
    numbers: Any = range(len(train))
    for number in range(1, rounds + 1):
        batches: Any = poisson_batches(numbers, BATCH, secret=bytes(32), round_number=number)
        for rows in batches:
            step(model, optimizer, train.images[rows], train.labels[rows])
        model.eval()
        accuracies.append(accuracy(model, test))
        model.train()
    return accuracies


def plotted(federated: list[float], local: list[float], folder: Path) -> Path:
    """Draw the curves FT (federated training) and LT (local training)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    for name, curve in (("FT", federated), ("LT", local)):
        axes.plot(range(1, len(curve) + 1), curve, marker="o", label=name)
    axes.set(xlabel="round", ylabel="test accuracy")
    axes.set_xticks(range(1, len(federated) + 1))
    axes.legend()
    path = folder / "accuracy.png"
    figure.savefig(path)
    plt.close(figure)
    return path
