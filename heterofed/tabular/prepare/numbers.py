"""Defines steps for numbers, which replace missing ones and scale them for a network."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import pandas as pd
from scipy.special import ndtri
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from heterofed.tabular.prepare.values import numbers
from heterofed.tabular.prepare.work import Array, Work

Strategy = Literal["median", "mean", "most_frequent", "constant"]
How = Literal["quantile", "standard", "log", "minmax", "none"]

QUANTILES = 200
"""The number of knots of the quantile scale; small tables have ten times as many rows as knots."""

FURTHEST = 4.0
"""The number of standard deviations from the middle at which the quantile scale ends."""


class Impute(msgspec.Struct, tag="impute"):
    """Replaces missing numbers, and says in a number of its own that they were missing.

    Args:
        strategy: what replaces a missing number: the "median", "mean" or "most_frequent" value of
            the train rows, or a "constant".
        fill: the constant.
        indicator: whether a column that has missing values in the train rows gets a second column
            of 0 and 1.
        columns: the columns of the step; None for all numeric ones.
    """

    strategy: Strategy = "median"
    fill: float = 0.0
    indicator: bool = True
    columns: list[str] | None = None
    values: dict[str, float] = {}
    indicated: list[str] = []

    def fit(self, work: Work) -> Impute:
        """Return the step, fitted on the train rows."""
        values, indicated = {}, []
        for name in work.chosen(self.columns, ["numeric"], "Impute"):
            column = numbers(work.columns[name], name)[:, None]
            imputer = SimpleImputer(
                strategy=self.strategy, fill_value=self.fill, keep_empty_features=True
            )
            values[name] = float(imputer.fit(column).statistics_[0])
            if self.indicator and np.isnan(column).any():
                indicated.append(name)
        return msgspec.structs.replace(self, values=values, indicated=indicated)

    def apply(self, work: Work) -> None:
        """Replace missing values in the columns of these rows."""
        for name, value in self.values.items():
            column = numbers(work.columns[name], name)
            missing = np.isnan(column)
            if name in self.indicated:
                work.dense[f"{name} is missing"] = missing.astype(np.float32)
            work.columns[name] = pd.Series(np.where(missing, value, column))


class Scale(msgspec.Struct, tag="scale"):
    """Scales numbers and makes inputs of them; a missing one becomes 0, the middle.

    Args:
        how: "quantile" gives the train rows a normal distribution, whatever their tails are;
            "standard" gives them mean 0 and deviation 1; "log" does the same with sign(x) log(1 +
            |x|); "minmax" scales them to between 0 and 1; "none" does not change them.
        columns: the columns of the step; None for all numeric ones.
    """

    how: How = "quantile"
    columns: list[str] | None = None
    knots: dict[str, list[float]] = {}
    centres: dict[str, float] = {}
    scales: dict[str, float] = {}

    def fit(self, work: Work) -> Scale:
        """Return the step, fitted on the train rows."""
        knots, centres, scales = {}, {}, {}
        for name in work.chosen(self.columns, ["numeric"], "Scale"):
            column = numbers(work.columns[name], name)
            known = column[~np.isnan(column)]
            centres[name], scales[name], knots[name] = _fitted(known, self.how)
        return msgspec.structs.replace(self, knots=knots, centres=centres, scales=scales)

    def apply(self, work: Work) -> None:
        """Scale the columns of these rows."""
        for name in self.centres:
            column = numbers(work.take(name), name)
            bent = _bent(column, self.how, self.knots[name])
            scaled = (bent - self.centres[name]) / self.scales[name]
            work.dense[name] = np.nan_to_num(scaled).astype(np.float32)


def _fitted(known: Array, how: How) -> tuple[float, float, list[float]]:
    """Return centre, scale and knots of a column's known values."""
    if not len(known) or how == "none":
        return 0.0, 1.0, [0.0, 0.0] if how == "quantile" else []
    knots = _quantiles(known) if how == "quantile" else []
    bent = _bent(known, how, knots)
    if how == "minmax":
        low, high = float(bent.min()), float(bent.max())
        return low, (high - low) or 1.0, knots
    fitted = StandardScaler().fit(bent[:, None])
    return float(fitted.mean_[0]), float(fitted.scale_[0]), knots


def _quantiles(known: Array) -> list[float]:
    count = min(QUANTILES, len(known))
    fitted = QuantileTransformer(n_quantiles=count, subsample=100_000, random_state=0)
    found: list[float] = fitted.fit(known[:, None]).quantiles_[:, 0].tolist()
    return found


def _bent(column: Array, how: How, knots: list[float]) -> Array:
    if how == "quantile":
        return _to_normal(column, knots)
    return np.sign(column) * np.log1p(np.abs(column)) if how == "log" else column


def _to_normal(column: Array, knots: list[float]) -> Array:
    """Return the normal quantile of each value's position among the knots.

    As in scikit-learn's QuantileTransformer, the middle position of repeated knots counts.
    """
    at = np.asarray(knots)
    places = np.linspace(0, 1, len(at))
    up = np.interp(column, at, places)
    down = -np.interp(-column, -at[::-1], -places[::-1])
    with np.errstate(invalid="ignore"):
        normal: Array = np.clip(ndtri(0.5 * (up + down)), -FURTHEST, FURTHEST)
    return normal
