"""A table under way from columns to tensors; each step takes columns from it and puts inputs in."""

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
    """Rows of one party under way.

    Attributes:
        columns: those that no step has turned into inputs yet; numbers once `Impute` was there.
        kinds: of these columns.
        dense: numbers by name, each [rows].
        codes: by group, [rows, columns].
        bags: by column.
        labels: 0 and 1 of these rows, where steps are fitted and this party has such labels.
        weights: of these rows beside their labels, where there are any.
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
        """The columns that a step is for: those it was given, or all of its kinds that are left.

        Raises:
            ConfigError: a column that it was given is not there any more, or never was.
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
        """Take a column out, to turn it into inputs."""
        return self.columns.pop(name)
