"""The optimizer of dense and sparse weights together."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from heterofed.tabular.models.optimizer import SparseAdamW


def test_a_checkpoint_keeps_one_optimizer_and_nothing_within() -> None:
    """Parts that hung on it were kept as optimizers of their own, and could not be put back."""
    table, line = nn.EmbeddingBag(10, 2, sparse=True), nn.Linear(2, 1)
    optimizer = SparseAdamW(line.parameters(), table.parameters(), lr=0.1, weight_decay=0.0)
    for _ in range(2):
        optimizer.zero_grad()
        line(table(torch.tensor([[1, 2]]))).sum().backward()
        optimizer.step()
    held = [each for value in vars(optimizer).values() for each in (value, *nested(value))]
    assert not any(isinstance(each, Optimizer) for each in held)
    again = SparseAdamW(line.parameters(), table.parameters(), lr=0.1, weight_decay=0.0)
    again.load_state_dict(optimizer.state_dict())
    again.step()


def nested(value: object) -> list[object]:
    return list(value) if isinstance(value, tuple | list) else []
