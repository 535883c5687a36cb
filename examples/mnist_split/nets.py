"""The networks of the MNIST example: one feature half per party, a small classifier on top."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it F
from torch import Tensor, nn


class HalfNet(nn.Module):
    """Half an image -> embedding of 10 numbers: [rows, 1, 28, 14] -> [rows, 10]."""

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
        return self.fc2(F.dropout(x, training=self.training))  # type: ignore[no-any-return]


class TopNet(nn.Module):
    """The embeddings of both halves -> log-probabilities: [rows, 20] -> [rows, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        """One pass."""
        return torch.log_softmax(self.fc(x), dim=1)
