"""Combines the steps of one party, which are fitted once, kept as plain data and applied to any
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import torch

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.kinds import Column
from heterofed.tabular.prepare.categories import Embed, OneHot
from heterofed.tabular.prepare.inputs import Inputs, Shape
from heterofed.tabular.prepare.numbers import Impute, Scale
from heterofed.tabular.prepare.spread import SpreadTags
from heterofed.tabular.prepare.tokens import HashText, Tags
from heterofed.tabular.prepare.truths import Booleans, Dates
from heterofed.tabular.prepare.woe import WOE
from heterofed.tabular.prepare.work import Array, Work

Step = Impute | Scale | OneHot | Embed | HashText | SpreadTags | Tags | Booleans | Dates | WOE


class Preparation(msgspec.Struct, frozen=True):
    """Fitted steps, with the columns on which they were fitted.

    Attributes:
        columns: the columns in their order; columns that no step uses are read and compared too.
        steps: the steps in their order.
        shape: the shape of the inputs.
    """

    columns: tuple[Column, ...]
    steps: tuple[Step, ...]
    shape: Shape

    @classmethod
    def fit(
        cls,
        frame: pd.DataFrame,
        columns: Sequence[Column],
        steps: Sequence[Step],
        *,
        labels: Array | None = None,
        weights: Array | None = None,
    ) -> Preparation:
        """Fit steps.

        Args:
            frame: the train rows of this party, and no other rows.
            columns: the columns of the frame, in its order.
            steps: the steps, not fitted.
            labels: 0 and 1 of the rows, for steps that are fitted with them; None if there are
                none.
            weights: the weights of the rows, beside their labels.

        Raises:
            ColumnError: a column has values that its kind does not allow, or no column is left to
            learn from.
            ConfigError: no train row has features here, a step is for a column that does not exist,
            or a step needs labels and there are none.
        """
        if not len(frame):
            raise ConfigError("prepare: there is no train row to fit the columns on")
        work = _work(frame, columns)
        work.labels, work.weights = labels, weights
        fitted = []
        for step in steps:
            done = step.fit(work)
            done.apply(work)
            fitted.append(done)
        shape = _shape(work, fitted)
        if not (shape.dense or shape.codes or shape.bags):
            raise ColumnError(
                f"of the columns {list(frame.columns)} none is left to learn from: each holds one"
                " value, or ids, or no step of prepare=... takes it"
            )
        return cls(tuple(columns), tuple(fitted), shape)

    @property
    def names(self) -> list[str]:
        """The names of the columns, in their order."""
        return [each.name for each in self.columns]

    def apply(self, frame: pd.DataFrame) -> Inputs:
        """Return the inputs of a model for some rows.

        Raises:
            ColumnError: the columns are not those of the training, are in another order, or have
            values that they cannot hold.
        """
        if list(frame.columns) != self.names:
            raise ColumnError(
                f"the model was trained on the columns {self.names}, in this order, and is given"
                f" {list(frame.columns)}"
            )
        work = _work(frame, self.columns)
        for step in self.steps:
            step.apply(work)
        dense = [work.dense[name] for name in self.shape.dense]
        matrix = np.stack(dense, axis=1) if dense else np.zeros((work.rows, 0), np.float32)
        codes = {name: torch.from_numpy(each) for name, each in work.codes.items()}
        return Inputs(torch.from_numpy(matrix), codes, work.bags)


def _work(frame: pd.DataFrame, columns: Sequence[Column]) -> Work:
    series: dict[str, pd.Series[Any]] = {
        each.name: frame[each.name].reset_index(drop=True) for each in columns
    }
    return Work(series, {each.name: each.kind for each in columns}, len(frame))


def _shape(work: Work, steps: Sequence[Step]) -> Shape:
    codes = {each.group: each.table for each in steps if isinstance(each, Embed)}
    bags = {
        name: table
        for each in steps
        if isinstance(each, HashText | Tags)
        for name, table in each.tables.items()
    }
    return Shape(tuple(work.dense), {name: codes[name] for name in work.codes}, bags)
