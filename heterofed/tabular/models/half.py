"""Defines a party's half, which computes from its columns what it sends at the cut layer."""

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
    """The description of a half.

    Attributes:
        model: "logistic" is the sum of a term for each column; "mlp" is a network; "wide_deep" is
            both; "deepfm" is both and the products of all pairs of columns.
        outputs: the number of outputs of the whole model.
        width: the number of outputs of the network at the cut layer.
        hidden: the width of its hidden layer.
        dropout: the dropout of that layer.
        preparation: the preparation of the columns.
        settings: the agreed settings of the parties, as they were announced.
    """

    model: Model
    outputs: int
    width: int
    hidden: int
    dropout: float
    preparation: Preparation
    settings: dict[str, str] = {}


class Half(Described[HalfPlan]):
    """A party's half, made from its description."""

    kind = HalfPlan

    def make(self, plan: HalfPlan) -> None:
        """Make the layers."""
        shape = plan.preparation.shape
        self.wide = None if plan.model == "mlp" else Linear(shape, plan.outputs)
        self.fields = Fields(shape, plan.width) if plan.model == "deepfm" else None
        self.deep = None if plan.model == "logistic" else _network(plan)

    def forward(self, inputs: Inputs) -> Any:
        """Return the output of the half for some rows.

        It is one tensor [rows, ...] for a model of one part, otherwise a dict of them.
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
