"""Cuts a column into a few bins: numbers by borders, words by groups, and missing values apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier

from heterofed.errors import ColumnError, ConfigError

MISSING, OTHER = "missing", "other"

LEAST_CHI_SQUARE = 10.83
"""The least chi-square of a cut. Chance reaches it once in a thousand times, and more often for the
best of many cuts. With a lower one, a column of noise would get bins and an information value.
"""


class Bins(msgspec.Struct, frozen=True, kw_only=True):
    """The bins of one column, as plain data to be kept with a model.

    The last bin is that of missing values. For words, the one before it has all words without a bin
    of their own, rare ones and ones that occur later.

    Attributes:
        column: the name of the column.
        borders: the borders of numbers: a bin has those above a border, up to the next one.
        words: the words that have bins of their own; empty for numbers.
    """

    column: str
    borders: tuple[float, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The description of each bin."""
        if self.words:
            return (*self.words, OTHER, MISSING)
        ends = [f"{each:.6g}" for each in self.borders]
        if not ends:
            return ("all", MISSING)
        between = [f"({low}, {high}]" for low, high in pairwise(ends)]
        return (f"up to {ends[0]}", *between, f"above {ends[-1]}", MISSING)

    def codes(self, values: Any) -> NDArray[np.int64]:
        """Return the bin of each row, [rows].

        Raises:
            ColumnError: the bins are of numbers, and a value is not a number.
        """
        series = pd.Series(values)
        missing = series.isna().to_numpy()
        if self.words:
            at = {word: place for place, word in enumerate(self.words)}
            found = series.astype(str).map(at).fillna(len(self.words)).to_numpy(dtype=np.int64)
        else:
            numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64)
            if (np.isnan(numbers) & ~missing).any():
                raise ColumnError(
                    f"column {self.column!r}: its bins are of numbers, and it has words"
                )
            found = np.searchsorted(self.borders, numbers, side="left").astype(np.int64)
        return np.where(missing, len(self.names) - 1, found)


def bin_column(
    values: Any,
    labels: Any = None,
    weights: Any = None,
    *,
    column: str = "column",
    most: int = 6,
    least_share: float = 0.05,
    monotonic: bool = False,
) -> Bins:
    """Cut a column into bins; use train rows only.

    Numbers are cut where a decision tree cuts them to separate the labels, as long as the two sides
    differ by more than chance. Without labels they are cut at their quantiles. Words get a bin
    each, the most frequent first.

    Args:
        values: the values of the train rows: a Series, array or list.
        labels: the labels 0 and 1 of the same rows.
        weights: the sample weights of the tree.
        column: the name of the column.
        most: the most bins, without those of missing values and other words.
        least_share: the smallest share of the rows that a bin may have.
        monotonic: whether the rate of the ones may only rise or only fall from bin to bin of
            numbers.

    Raises:
        ColumnError: the column has no value, or an infinite one.
        ConfigError: a setting is out of range.
    """
    if most < 2 or not 0 <= least_share <= 0.5:
        raise ConfigError("bins: give most=2 or more, and a least_share from 0 to 0.5")
    series = pd.Series(values).reset_index(drop=True)
    held = series.notna().to_numpy()
    if not held.any():
        raise ColumnError(f"column {column!r} has no value; leave it out")
    if not _are_numbers(series):
        counts = series[held].astype(str).value_counts()
        frequent = counts[counts >= max(least_share * len(series), 1)].index[:most]
        return Bins(column=column, words=tuple(sorted(frequent)) or (str(counts.index[0]),))
    numbers = series[held].to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ColumnError(f"column {column!r} holds infinity; correct it before it is binned")
    if labels is None:
        inner = np.linspace(0, 1, most + 1)[1:-1]
        borders = np.unique(np.quantile(numbers, inner))
        return Bins(column=column, borders=tuple(borders[borders < numbers.max()].tolist()))
    truth = np.asarray(labels, dtype=np.float64)[held]
    weighed = None if weights is None else np.asarray(weights, dtype=np.float64)[held]
    return Bins(
        column=column,
        borders=_cuts(numbers, truth, weighed, most, least_share, monotonic=monotonic),
    )


def _are_numbers(series: pd.Series[Any]) -> bool:
    types = pd.api.types
    return types.is_numeric_dtype(series.dtype) and not types.is_bool_dtype(series.dtype)


def _cuts(
    numbers: NDArray[np.float64],
    truth: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    most: int,
    least_share: float,
    *,
    monotonic: bool,
) -> tuple[float, ...]:
    sign = 0
    if monotonic and numbers.std() > 0 and truth.std() > 0:
        ranks = pd.Series(numbers).rank()
        sign = int(np.sign(np.corrcoef(ranks, truth)[0, 1]))
    tree = DecisionTreeClassifier(
        max_leaf_nodes=most,
        min_samples_leaf=max(1, int(least_share * len(numbers))),
        # Of Gini impurity, what a cut of that chi-square takes away, as a share of all rows.
        min_impurity_decrease=2 * truth.var() * LEAST_CHI_SQUARE / len(numbers),
        monotonic_cst=[sign] if sign else None,
        random_state=0,
    ).fit(numbers[:, None], truth, sample_weight=weights)
    cuts: Sequence[float] = tree.tree_.threshold[tree.tree_.feature >= 0].tolist()
    return tuple(sorted(cuts))
