"""Holds the labels and weights of a run's rows, and the best loss so far, at the Host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heterofed.tabular.objectives import Objective, check_weights
from heterofed.tabular.objectives.objective import ClassWeights
from heterofed.tabular.table import LocalTable

Rows = Tensor | dict[str, Tensor]
"""The labels of a batch, or labels and weights."""


@dataclass(slots=True)
class Targets:
    """The labels and weights of the rows of a run, train rows first.

    Attributes:
        labels: the labels as `Labels.encode` returns them.
        weights: the weights, [rows]; 1 if the table has none.
        weighed: whether the table has weights.
    """

    labels: Tensor
    weights: Tensor
    weighed: bool

    @classmethod
    def of(cls, table: LocalTable, objective: Objective, ids: Sequence[str]) -> Targets:
        """Return the labels and weights of some ids, in their order.

        Raises:
            ColumnError: a row has no weight, no label, or a label that is none of the classes.
        """
        weights = table.weights(ids)
        return cls(
            objective.labels.encode(table.labels(ids)),
            torch.ones(len(ids)) if weights is None else check_weights(weights),
            weights is not None,
        )

    def fitted(self, objective: Objective, rows: int, class_weights: ClassWeights) -> Objective:
        """Return the objective, scaled to the first rows, which are the train rows."""
        return objective.fit(self.labels[:rows], self.weights[:rows], class_weights=class_weights)

    def of_rows(self, rows: Tensor) -> Rows:
        """Return labels of some rows for `train_a_batch`, with their weights if there are any.

        The leak report knows labels by this name.
        """
        labels = self.labels.index_select(0, rows)
        if not self.weighed:
            return labels
        return {"label": labels, "weight": self.weights.index_select(0, rows)}


def unpacked(rows: Rows) -> tuple[Tensor, Tensor | None]:
    """Return labels and weights from a result of `of_rows`."""
    return (rows, None) if isinstance(rows, Tensor) else (rows["label"], rows["weight"])


@dataclass(slots=True)
class EarlyStopping:
    """Decides when to stop, after rounds without a better model.

    Attributes:
        patience: the number of rounds without a better loss after which training stops.
        best_loss, best_round: the best loss of the validation rows so far, and its round.
    """

    patience: int
    best_loss: float = math.inf
    best_round: int = 0

    def note(self, loss: float, round_number: int) -> bool:
        """Take the loss of a round, and return whether it is the best one so far."""
        if round_number == 1:  # it may be that of another run of the same object
            self.best_loss, self.best_round = math.inf, 0
        if not loss < self.best_loss:
            return False
        self.best_loss, self.best_round = loss, round_number
        return True

    def is_over(self, round_number: int) -> bool:
        """Return whether to stop after this round."""
        return round_number - self.best_round >= self.patience

    def state(self) -> dict[str, float]:
        """Return the state for checkpoints."""
        return {"loss": self.best_loss, "round": self.best_round}

    def load(self, state: dict[str, float]) -> None:
        """Restore a result of `state`."""
        self.best_loss, self.best_round = state["loss"], int(state["round"])
