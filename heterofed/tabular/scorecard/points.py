"""Converts a logistic model of weights of evidence to a table of points, which is a scorecard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from heterofed.errors import ConfigError
from heterofed.tabular.scorecard.evidence import Evidence

Good = Literal["negative", "positive"]


@dataclass(frozen=True, slots=True)
class Scorecard:
    """The points of each bin of each column; a row's score is their sum.

    Attributes:
        evidence: the bins and their weights of evidence, by column.
        points: the points of each bin by column, in the order of the bins' names.
        factor: the number of points by which the score grows when the odds of good to bad grow by
            the factor e.
    """

    evidence: dict[str, Evidence]
    points: dict[str, tuple[float, ...]]
    factor: float

    def table(self) -> pd.DataFrame:
        """Return a row for each bin: `column`, `bin`, `rows`, `rate` (of the positive rows), `woe`,
        `points`.
        """
        parts = []
        for name, found in self.evidence.items():
            part = found.table()[["bin", "rows", "rate", "woe"]]
            part.insert(0, "column", name)
            parts.append(part.assign(points=self.points[name]))
        return pd.concat(parts, ignore_index=True)

    def score(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Return the score of each row of a table with these columns, [rows] float64."""
        parts = [
            np.asarray(self.points[name])[found.bins.codes(frame[name])]
            for name, found in self.evidence.items()
        ]
        total: NDArray[np.float64] = np.sum(parts, axis=0, dtype=np.float64)
        return total


def build_scorecard(
    evidence: Mapping[str, Evidence],
    weights: Mapping[str, float],
    intercept: float,
    *,
    base_score: float = 600.0,
    base_odds: float = 50.0,
    pdo: float = 20.0,
    good: Good = "negative",
) -> Scorecard:
    """Convert a logistic model of weights of evidence to points (Siddiqi 2006).

    The score is `base_score` if the odds of good to bad are `base_odds`, and grows by `pdo` points
    whenever they double. The intercept is distributed evenly over the columns.

    Args:
        evidence: the evidence by column.
        weights: the model's weight of each column.
        intercept: the intercept of the model.
        base_score: the score of a row with the odds `base_odds`.
        base_odds: the odds of good to bad.
        pdo: the number of points that doubles the odds.
        good: the good class: "negative" if the positive class is that of the defaults.

    Raises:
        ConfigError: there is no column, `weights` has other columns, or the scale is impossible.
    """
    if not evidence or set(evidence) != set(weights):
        raise ConfigError(
            "build_scorecard: give evidence and a weight for each of the same columns"
        )
    numbers: tuple[Any, ...] = (base_score, base_odds, pdo)
    if not all(math.isfinite(each) for each in numbers) or base_odds <= 0 or pdo <= 0:
        raise ConfigError("build_scorecard: base_odds and pdo are finite numbers above 0")
    factor = pdo / math.log(2)
    sign = 1.0 if good == "positive" else -1.0
    share = (base_score - factor * math.log(base_odds) + sign * factor * intercept) / len(evidence)
    points = {
        name: tuple(share + sign * factor * weights[name] * woe for woe in found.woe)
        for name, found in evidence.items()
    }
    return Scorecard(dict(evidence), points, factor)
