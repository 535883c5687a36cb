"""Computes the permutation importance of each column, at the party that has the column.

The owner of a column permutes its values over the test rows, and sends the embeddings of these rows
(Breiman 2001). The Host, which has the labels, measures by how much the model gets worse for the
first, second, third column of a party. The names of the columns stay with the owner, and only the
owner is told its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from heterofed.reporting.results import write_whole
from heterofed.tabular.objectives import Kind
from heterofed.tabular.prepare import Inputs, Preparation
from heterofed.tabular.table import LocalTable
from heterofed.tabular.worth import permutation_drops
from heterofed.tabular.written import csv_of

ROWS = 2000
"""The most test rows that are used."""

MOST_COLUMNS = 256
"""The most columns of one party that are measured; if there are more, these are the first ones."""

FILE = "importance.csv"

TOLD_STEP = 0.01
"""The step to which the drops that another party is told are rounded; they lie between -1 and 1.
The finer a number is, the more it says about single labels.
"""

Drops = dict[str, list[float]]
"""By party, how much worse the model is with each of its columns permuted."""


def permuted(table: LocalTable, preparation: Preparation, ids: Sequence[str]) -> Iterator[Inputs]:
    """Yield some rows unchanged, and then with the values of each column in turn permuted.

    Args:
        table: this party's table.
        preparation: the preparation that was fitted on its train rows.
        ids: the ids of the rows.
    """
    frame = table.source.typed(preparation.columns).take(table.positions(ids))
    frame = frame.reset_index(drop=True)
    yield preparation.apply(frame)
    for name in preparation.names[:MOST_COLUMNS]:
        order = torch.randperm(len(frame)).numpy()
        dealt = frame[name].iloc[order].reset_index(drop=True)
        changed = frame.copy(deep=False)
        changed[name] = dealt
        yield preparation.apply(changed)


class Importance:
    """Measures the importance of the columns of all parties, at the Host.

    Args:
        kind: the kind of the task.
        rows: whether each row is a test row, bools of shape [rows].
        labels, weights: the labels and weights of the test rows.

    Attributes:
        drops: the results so far.
    """

    def __init__(
        self, kind: Kind, rows: Tensor, labels: NDArray[Any], weights: NDArray[Any]
    ) -> None:
        self._kind = kind
        self._rows, self._labels, self._weights = rows, labels, weights
        self._whole: dict[str, Any] = {}
        self._scores: Tensor | None = None
        self.drops: Drops = {}

    def has_whole(self, party: str, features: Any) -> None:
        """Take a party's features as they are."""
        self._whole[party] = features

    def look(self, party: str, features: Any, scores_of: Any) -> None:
        """Take a party's features with its next column permuted, and measure the drop.

        Args:
            party: the party that has the column.
            features: the features of the rows.
            scores_of: computes scores from the features of all parties.
        """
        if self._scores is None:
            self._scores = scores_of(self._whole)[self._rows]
        scores = scores_of(self._whole | {party: features})[self._rows]
        (drop,) = permutation_drops(self._kind, self._labels, self._scores, [scores], self._weights)
        self.drops.setdefault(party, []).append(drop)


def told(drops: Sequence[float]) -> list[float]:
    """Return what the owner of the columns is told: rounded, so that it says less about labels."""
    return [
        each if math.isnan(each) else round(max(-1.0, min(1.0, each)) / TOLD_STEP) * TOLD_STEP
        for each in drops
    ]


def table_of(
    drops: Mapping[str, Sequence[float]], party: str, names: Sequence[str]
) -> pd.DataFrame:
    """Return a table with a row for each column, the most important of each party first.

    Args:
        drops: the results by party.
        party: the party that gets the table; it has the names of its own columns and the numbers of
            others' columns.
        names: the names of its columns.
    """
    rows: list[tuple[str, Any, float]] = []
    for owner, each in drops.items():
        words = list(names) if owner == party else [str(at) for at in range(1, len(each) + 1)]
        found = list(zip([owner] * len(each), words, each, strict=False))
        rows += sorted(found, key=lambda row: np.nan_to_num(-row[2], nan=np.inf))
    return pd.DataFrame(rows, columns=["party", "column", "drop"])


def written(folder: Path, table: pd.DataFrame) -> Path:
    """Write `importance.csv` into the results folder, and return its path."""
    text = csv_of(table)
    return write_whole(folder / FILE, lambda file: file.write(text))
