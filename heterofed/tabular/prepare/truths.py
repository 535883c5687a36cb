"""Defines steps for booleans and for dates, each of which becomes a few numbers."""

from __future__ import annotations

import msgspec
import numpy as np

from heterofed.tabular.prepare.values import dates, truths
from heterofed.tabular.prepare.work import Array, Work

YEAR, WEEK = 365.25, 7.0
"""The lengths of a year and of a week in days."""


class Booleans(msgspec.Struct, tag="booleans"):
    """Converts true, yes and 1 to 1, other values to 0, and missing ones to the share of the true
    ones.

    Args:
        columns: the columns of the step; None for all of kind boolean.
    """

    columns: list[str] | None = None
    shares: dict[str, float] = {}
    indicated: list[str] = []

    def fit(self, work: Work) -> Booleans:
        """Return the step, fitted on the train rows."""
        shares, indicated = {}, []
        for name in work.chosen(self.columns, ["boolean"], "Booleans"):
            column = truths(work.columns[name], name)
            known = column[~np.isnan(column)]
            shares[name] = float(known.mean()) if len(known) else 0.5
            if len(known) < len(column):
                indicated.append(name)
        return msgspec.structs.replace(self, shares=shares, indicated=indicated)

    def apply(self, work: Work) -> None:
        """Read the columns of these rows."""
        for name, share in self.shares.items():
            column = truths(work.take(name), name)
            if name in self.indicated:
                work.dense[f"{name} is missing"] = np.isnan(column).astype(np.float32)
            work.dense[name] = np.nan_to_num(column, nan=share).astype(np.float32)


class Dates(msgspec.Struct, tag="dates"):
    """Converts dates to numbers.

    They are the age in standard deviations of the train rows, the time of year and the day of the
    week as points on a circle, and whether the date is missing.

    Args:
        columns: the columns of the step; None for all of kind date.
    """

    columns: list[str] | None = None
    centres: dict[str, float] = {}
    scales: dict[str, float] = {}

    def fit(self, work: Work) -> Dates:
        """Return the step, fitted on the train rows."""
        centres, scales = {}, {}
        for name in work.chosen(self.columns, ["date"], "Dates"):
            days = dates(work.columns[name], name)
            known = days[~np.isnan(days)]
            centres[name] = float(known.mean()) if len(known) else 0.0
            scales[name] = (float(known.std()) if len(known) else 0.0) or 1.0
        return msgspec.structs.replace(self, centres=centres, scales=scales)

    def apply(self, work: Work) -> None:
        """Read the columns of these rows."""
        for name, centre in self.centres.items():
            days = dates(work.take(name), name)
            work.dense[f"{name} is missing"] = np.isnan(days).astype(np.float32)
            work.dense[name] = _float((days - centre) / self.scales[name])
            for period, said in ((YEAR, "year"), (WEEK, "week")):
                angle = 2 * np.pi * np.floor(days) / period
                work.dense[f"{name} sine of {said}"] = _float(np.sin(angle))
                work.dense[f"{name} cosine of {said}"] = _float(np.cos(angle))


def _float(values: Array) -> Array:
    return np.nan_to_num(values).astype(np.float32)
