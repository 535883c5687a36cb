"""What the Host's model is held to: labels and weights of a run's rows; the best loss so far."""

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
"""Labels of a batch, or labels and weights."""


@dataclass(slots=True)
class Targets:
    """Labels and weights of the rows that a run is about, train rows first.

    Attributes:
        labels: as `Labels.encode` gives them.
        weights: [rows]; 1 where the table has none.
        weighed: whether the table has weights.
    """

    labels: Tensor
    weights: Tensor
    weighed: bool

    @classmethod
    def of(cls, table: LocalTable, objective: Objective, ids: Sequence[str]) -> Targets:
        """Those of some ids, in their order.

        Raises:
            ColumnError: a row has no label, or one that is none of the classes, or no weight.
        """
        weights = table.weights(ids)
        return cls(
            objective.labels.encode(table.labels(ids)),
            torch.ones(len(ids)) if weights is None else check_weights(weights),
            weights is not None,
        )

    def fitted(self, objective: Objective, rows: int, class_weights: ClassWeights) -> Objective:
        """The objective, scaled to the first rows, which are the train rows."""
        return objective.fit(self.labels[:rows], self.weights[:rows], class_weights=class_weights)

    def of_rows(self, rows: Tensor) -> Rows:
        """Labels of some rows, as `train_a_batch` gets them: with their weights where there are
        any. The leak report knows labels by this name.
        """
        if not self.weighed:
            return self.labels[rows]
        return {"label": self.labels[rows], "weight": self.weights[rows]}


def unpacked(rows: Rows) -> tuple[Tensor, Tensor | None]:
    """Labels and weights of what `of_rows` gave."""
    return (rows, None) if isinstance(rows, Tensor) else (rows["label"], rows["weight"])


@dataclass(slots=True)
class EarlyStopping:
    """When training has gone on long enough without a better model.

    Attributes:
        patience: rounds without a better loss after which it stops.
        best_loss, best_round: of the validation rows so far.
    """

    patience: int
    best_loss: float = math.inf
    best_round: int = 0

    def note(self, loss: float, round_number: int) -> bool:
        """Take in the loss of a round; gives whether it is the best one so far."""
        if round_number == 1:  # of another run of the same object, perhaps
            self.best_loss, self.best_round = math.inf, 0
        if not loss < self.best_loss:
            return False
        self.best_loss, self.best_round = loss, round_number
        return True

    def is_over(self, round_number: int) -> bool:
        """Whether to stop after this round."""
        return round_number - self.best_round >= self.patience

    def state(self) -> dict[str, float]:
        """For checkpoints."""
        return {"loss": self.best_loss, "round": self.best_round}

    def load(self, state: dict[str, float]) -> None:
        """The inverse of `state`."""
        self.best_loss, self.best_round = state["loss"], int(state["round"])
