"""Defines the model on top of all halves, at the Host, which computes the outputs of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from heterofed.tabular.models.described import Described
from heterofed.tabular.models.half import Model
from heterofed.tabular.objectives import Objective


class TopPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The description of the model on top.

    Attributes:
        model: the same as in the halves.
        parties: the number of parties that send a part.
        width, hidden, dropout: the same as in the halves.
        objective: the objective that is learnt.
        settings: the agreed settings of the parties, as they were announced.
    """

    model: Model
    parties: int
    width: int
    hidden: int
    dropout: float
    objective: Objective
    settings: dict[str, str] = {}


class Bias(nn.Module):
    """A number for each output."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(outputs))

    def forward(self) -> Tensor:
        """Return the numbers, [outputs]."""
        return self.values


class Top(Described[TopPlan]):
    """The model on top, made from its description."""

    kind = TopPlan

    def make(self, plan: TopPlan) -> None:
        """Make the layers."""
        outputs = plan.objective.outputs
        self.bias = Bias(outputs)
        self.deep = None if plan.model == "logistic" else _network(plan)
        self.pairs = nn.Linear(1, outputs, bias=False) if plan.model == "deepfm" else None

    def forward(self, projection: Mapping[str, Any]) -> Tensor:
        """Return the outputs, [rows, outputs], from the outputs of each party for the rows."""
        parts = list(projection.values())
        total: Tensor = self.bias()
        if (wide := _of("wide", parts, self.deep is None)) is not None:
            total = total + torch.stack(wide).sum(dim=0)
        if self.deep is not None:
            deep = _of("deep", parts, wide is None)
            total = total + self.deep(torch.cat(deep or [], dim=1))
        if self.pairs is not None:
            total = total + self.pairs(_products(_of("fields", parts, alone=False) or []))
        return total


def _of(name: str, parts: list[Any], alone: bool) -> list[Tensor] | None:
    """Return each party's tensor of this name; in a model of one part the tensors have no names."""
    if isinstance(parts[0], Tensor):
        return parts if alone else None
    return [each[name] for each in parts] if name in parts[0] else None


def _products(fields: list[Tensor]) -> Tensor:
    """Return half of (the square of the sum minus the sum of the squares) of all pairs, [rows,
    1].
    """
    total = torch.stack(fields).sum(dim=0)
    sums, squares = total[:, :-1], total[:, -1:]
    return 0.5 * (sums.square().sum(dim=1, keepdim=True) - squares)


def _network(plan: TopPlan) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(plan.dropout),
        nn.Linear(plan.parties * plan.width, plan.hidden),
        nn.ReLU(),
        nn.Dropout(plan.dropout),
        nn.Linear(plan.hidden, plan.objective.outputs),
    )
