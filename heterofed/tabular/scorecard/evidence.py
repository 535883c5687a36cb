"""Computes the weight of evidence of each bin, and the information value of a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.scorecard.binning import Bins

Floats = NDArray[np.float64]

SMOOTHING = 0.5
"""The number that is added to the rows of each class in each bin, so that weights are finite."""

STRENGTHS = ((0.02, "none"), (0.1, "weak"), (0.3, "medium"), (0.5, "strong"))
"""The meaning of information values below each bound (Siddiqi 2006)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The relation between the bins of a column and the label.

    Attributes:
        bins: the bins of the column.
        rows, positives: the weight of the rows of each bin, and of those with label 1; for
            randomised labels this is an estimate.
        woe: the weight of evidence of each bin: the logarithm of its odds of a 1 divided by those
            of all rows. So a bin with more ones than usual has a weight above 0 (some books use the
            opposite sign). It is 0 for a bin without rows.
        iv: the information value of the column.
    """

    bins: Bins
    rows: tuple[float, ...]
    positives: tuple[float, ...]
    woe: tuple[float, ...]
    iv: float

    @property
    def strength(self) -> str:
        """The meaning of the information value. Above 0.5 the column may contain the label
        itself.
        """
        return next((word for bound, word in STRENGTHS if self.iv < bound), "suspicious")

    def transform(self, values: Any) -> Floats:
        """Return each row's weight of evidence, [rows] float64."""
        return np.asarray(self.woe)[self.bins.codes(values)]

    def table(self) -> pd.DataFrame:
        """Return a row for each bin."""
        rows, ones = np.asarray(self.rows), np.asarray(self.positives)
        rate = np.divide(ones, rows, out=np.full(len(rows), np.nan), where=rows > 0)
        return pd.DataFrame(
            {
                "bin": self.bins.names,
                "rows": rows,
                "share": rows / rows.sum(),
                "positives": ones,
                "rate": rate,
                "woe": self.woe,
            }
        )


def evidence(
    bins: Bins,
    values: Any,
    labels: Any,
    weights: Any = None,
    *,
    label_keeping: float = 1.0,
) -> Evidence:
    """Compute the evidence of a column's bins from labels; use train rows only.

    A party without labels can do so with labels that the Host has randomised
    (`heterofed.privacy.label_dp.RandomisedResponse`): the counts are corrected for it. This reveals
    the following: each of these labels is the true one with the probability `label_keeping`, which
    is 0.73 for epsilon = 1 of the label DP, and 0.95 for 3. The estimate is inexact if a bin has
    few rows.

    Args:
        bins: the bins of the column.
        values: the values of the rows.
        labels: the labels 0 and 1 of the same rows.
        weights: the sample weights.
        label_keeping: the probability that a label is the true one:
            `RandomisedResponse(...).keeping`.

    Raises:
        ColumnError: labels are not 0 and 1, or are of one class only.
        ConfigError: the labels are so random that they say nothing.
    """
    if not 0.5 < label_keeping <= 1:
        raise ConfigError("label_keeping: give a chance above 0.5, up to 1")
    truth = np.asarray(labels, dtype=np.float64)
    if not np.isin(truth, (0, 1)).all() or len(np.unique(truth)) < 2:
        raise ColumnError("evidence: labels must be 0 and 1, and some of both")
    weighed = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=np.float64)
    codes, count = bins.codes(values), len(bins.names)
    rows = np.bincount(codes, weighed, minlength=count).astype(np.float64)
    ones = np.bincount(codes, weighed * truth, minlength=count).astype(np.float64)
    turning = 1 - label_keeping
    ones = np.clip((ones - turning * rows) / (label_keeping - turning), 0, rows)
    woe, value = _weigh(rows, ones)
    return Evidence(bins, tuple(rows.tolist()), tuple(ones.tolist()), tuple(woe.tolist()), value)


def _weigh(rows: Floats, ones: Floats) -> tuple[Floats, float]:
    held = rows > 0
    positive = np.where(held, ones + SMOOTHING, 0)
    negative = np.where(held, rows - ones + SMOOTHING, 0)
    shares = positive / positive.sum(), negative / negative.sum()
    woe = np.zeros(len(rows))
    woe[held] = np.log(shares[0][held] / shares[1][held])
    return woe, float(((shares[0] - shares[1]) * woe).sum())
