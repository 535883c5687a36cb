"""The nets, their optimizers and their random numbers: the same in every system.

A net draws its dropout masks from a seed of the party and the step. So the joined model and a split
one can be compared bit by bit, whatever else a system does with the global generator.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it F
from torch import Tensor, nn

HOST, COLLABORATOR, TOP = "host", "collaborator", "top"
SEEDS = {HOST: 1, COLLABORATOR: 2, TOP: 3}


class HalfDigit(nn.Module):
    """Half an image, [rows, 1, 28, 14], to 10 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=(5, 3))
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.drop = nn.Dropout2d()
        self.fc1 = nn.Linear(80, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        """One pass."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.conv2(x)), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        output: Tensor = self.fc2(F.dropout(x, training=self.training))
        return output


class Columns(nn.Module):
    """Some columns of a table, [rows, columns], to 10 numbers."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(columns, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        """One pass."""
        output: Tensor = self.net(x)
        return output


class Top(nn.Module):
    """The 20 numbers of both parties to log-probabilities."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(20, classes)

    def forward(self, x: Tensor) -> Tensor:
        """One pass."""
        return torch.log_softmax(self.fc(x), dim=1)


def make(part: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """A part of the model, with the weights that it begins with.

    Args:
        part: `host`, `collaborator` or `top`.
        shape: of one row of that party.
        classes: of the labels.
    """
    torch.manual_seed(SEEDS[part])
    if part == TOP:
        return Top(classes)
    return HalfDigit() if len(shape) == 3 else Columns(shape[0])


def make_optimizer(part: str, model: nn.Module) -> torch.optim.SGD:
    """As in the MNIST example: the Host's half has more momentum."""
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5 if part == HOST else 0.1)


def features(part: str, model: nn.Module, rows: Tensor, step: int) -> Tensor:
    """The forward pass of a party's half in a step of training, with that step's dropout mask."""
    torch.manual_seed(1_000_000 * SEEDS[part] + step)
    output: Tensor = model(rows)
    return output


def loss_of(top: nn.Module, host: Tensor, collaborator: Tensor, labels: Tensor) -> Tensor:
    """The loss of a batch."""
    return F.nll_loss(top(torch.cat([host, collaborator], dim=1)), labels)
