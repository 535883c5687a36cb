"""A party's half: its columns to what it sends at the cut layer."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from heterofed.tabular.models.described import Described
from heterofed.tabular.models.inputs import Features, Fields, Linear
from heterofed.tabular.prepare import Inputs, Preparation

Model = Literal["logistic", "mlp", "wide_deep", "deepfm"]


class HalfPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a half is made of.

    Attributes:
        model: "logistic" gives the sum of its columns' terms; "mlp" what a network makes of them;
            "wide_deep" both; "deepfm" both, and the products of all pairs of columns.
        outputs: of the whole model.
        width: numbers of the network at the cut layer.
        hidden: of its hidden layer.
        dropout: of that layer.
        preparation: of the columns.
        settings: what the parties agreed on, as it was announced.
    """

    model: Model
    outputs: int
    width: int
    hidden: int
    dropout: float
    preparation: Preparation
    settings: dict[str, str] = {}


class Half(Described[HalfPlan]):
    """A party's half, made from its plan."""

    kind = HalfPlan

    def make(self, plan: HalfPlan) -> None:
        """Make the layers."""
        shape = plan.preparation.shape
        self.wide = None if plan.model == "mlp" else Linear(shape, plan.outputs)
        self.fields = Fields(shape, plan.width) if plan.model == "deepfm" else None
        self.deep = None if plan.model == "logistic" else _network(plan)

    def forward(self, inputs: Inputs) -> Any:
        """What the half says of some rows: one tensor [rows, ...] of a model of one part, else a
        dict of them.
        """
        parts: dict[str, Tensor] = {}
        if self.wide is not None:
            parts["wide"] = self.wide(inputs)
        if self.deep is not None:
            parts["deep"] = self.deep(inputs)
        if self.fields is not None:
            total, squares = self.fields(inputs)
            parts["fields"] = torch.cat([total, squares.sum(dim=1, keepdim=True)], dim=1)
        return parts if len(parts) > 1 else next(iter(parts.values()))


def _network(plan: HalfPlan) -> nn.Sequential:
    features = Features(plan.preparation.shape)
    return nn.Sequential(
        features,
        nn.Linear(features.width, plan.hidden),
        nn.ReLU(),
        nn.Dropout(plan.dropout),
        nn.Linear(plan.hidden, plan.width),
        nn.ReLU(),
    )
