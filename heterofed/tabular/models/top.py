"""The model on top of all halves, at the Host: their parts to the outputs of the task."""

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
    """What the model on top is made of.

    Attributes:
        model: as of the halves.
        parties: how many give a part.
        width, hidden, dropout: as of the halves.
        objective: what is learnt.
        settings: what the parties agreed on, as it was announced.
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
        """[outputs]."""
        return self.values


class Top(Described[TopPlan]):
    """The model on top, made from its plan."""

    kind = TopPlan

    def make(self, plan: TopPlan) -> None:
        """Make the layers."""
        outputs = plan.objective.outputs
        self.bias = Bias(outputs)
        self.deep = None if plan.model == "logistic" else _network(plan)
        self.pairs = nn.Linear(1, outputs, bias=False) if plan.model == "deepfm" else None

    def forward(self, projection: Mapping[str, Any]) -> Tensor:
        """Outputs, [rows, outputs], of what each party gave for the rows."""
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
    """Each party's tensor of this name; of a model of one part they have none."""
    if isinstance(parts[0], Tensor):
        return parts if alone else None
    return [each[name] for each in parts] if name in parts[0] else None


def _products(fields: list[Tensor]) -> Tensor:
    """Half of (the square of the sum, less the sum of the squares): all pairs, [rows, 1]."""
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
