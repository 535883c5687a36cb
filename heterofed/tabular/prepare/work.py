"""Holds the state of a table between the steps, which take columns from it and add inputs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from heterofed.errors import ConfigError
from heterofed.tabular.kinds import Kind
from heterofed.tabular.prepare.inputs import Bag

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class Work:
    """The rows of one party between the steps.

    Attributes:
        columns: the columns that no step has converted to inputs yet; those of numbers are numbers
            after `Impute`.
        kinds: the kinds of these columns.
        dense: the numbers by name, each [rows].
        codes: the codes by group, [rows, columns].
        bags: the bags by column.
        labels: 0 and 1 of these rows, if steps are fitted and this party has such labels.
        weights: the weights of these rows beside their labels, if there are any.
    """

    columns: dict[str, pd.Series[Any]]
    kinds: dict[str, Kind]
    rows: int
    dense: dict[str, Array] = field(default_factory=dict)
    codes: dict[str, Array] = field(default_factory=dict)
    bags: dict[str, Bag] = field(default_factory=dict)
    labels: Array | None = None
    weights: Array | None = None

    def chosen(self, columns: Sequence[str] | None, kinds: Sequence[Kind], step: str) -> list[str]:
        """Return the columns of a step: those that it was given, or all of its kinds that are left.

        Raises:
            ConfigError: a column that it was given does not exist, or does not exist any more.
        """
        if columns is None:
            return [name for name in self.columns if self.kinds[name] in kinds]
        if absent := [name for name in columns if name not in self.columns]:
            raise ConfigError(
                f"prepare: {step} is for column {absent[0]!r}, which is not there or was taken by a"
                f" step before it; there are {list(self.columns)}"
            )
        return list(columns)

    def take(self, name: str) -> pd.Series[Any]:
        """Remove a column and return it, so that it can be converted to an input."""
        return self.columns.pop(name)
