"""What each column is worth to the model: the permutation importance, computed where columns are.

The owner of a column deals its values out to other test rows, and sends what its half makes of them
(Breiman 2001). The Host, which has the labels, sees by how much the model gets worse, for the
first, second, third column of a party: their names stay with the owner, who is told these alone.
"""

from __future__ import annotations

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
"""Test rows that are looked at, at most."""

MOST_COLUMNS = 256
"""Columns of one party that are looked at; of more, the first ones."""

FILE = "importance.csv"

Drops = dict[str, list[float]]
"""By party, how much worse the model is with each of its columns permuted."""


def permuted(table: LocalTable, preparation: Preparation, ids: Sequence[str]) -> Iterator[Inputs]:
    """Some rows as they are, and then with the values of each column in turn dealt out to others.

    Args:
        table: this party's.
        preparation: fitted on its train rows.
        ids: of the rows.
    """
    frame = table.source.typed(preparation.columns).take(table.positions(ids))
    frame = frame.reset_index(drop=True)
    yield preparation.apply(frame)
    for name in preparation.names[:MOST_COLUMNS]:
        order = torch.randperm(len(frame)).numpy()
        dealt = frame[name].iloc[order].reset_index(drop=True)
        yield preparation.apply(frame.assign(**{name: dealt}))


class Importance:
    """What the Host finds of the columns of all parties.

    Args:
        kind: of the task.
        rows: which of the rows that are looked at are test rows, bool [rows].
        labels, weights: of the test rows.

    Attributes:
        drops: what was found so far.
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
        """Take in a party's features as they are."""
        self._whole[party] = features

    def look(self, party: str, features: Any, scores_of: Any) -> None:
        """Take in a party's features with its next column permuted.

        Args:
            party: whose column it is.
            features: of the rows.
            scores_of: from the features of all parties to scores.
        """
        if self._scores is None:
            self._scores = scores_of(self._whole)[self._rows]
        scores = scores_of(self._whole | {party: features})[self._rows]
        (drop,) = permutation_drops(self._kind, self._labels, self._scores, [scores], self._weights)
        self.drops.setdefault(party, []).append(drop)


def table_of(
    drops: Mapping[str, Sequence[float]], party: str, names: Sequence[str]
) -> pd.DataFrame:
    """A line for each column, the most important of each party first.

    Args:
        drops: by party.
        party: whose table this is: its own columns stand there by their names, others' by number.
        names: of its columns.
    """
    rows: list[tuple[str, Any, float]] = []
    for owner, each in drops.items():
        words = list(names) if owner == party else [str(at) for at in range(1, len(each) + 1)]
        found = list(zip([owner] * len(each), words, each, strict=False))
        rows += sorted(found, key=lambda row: np.nan_to_num(-row[2], nan=np.inf))
    return pd.DataFrame(rows, columns=["party", "column", "drop"])


def written(folder: Path, table: pd.DataFrame) -> Path:
    """Write `importance.csv` into the results folder."""
    text = csv_of(table)
    return write_whole(folder / FILE, lambda file: file.write(text))
