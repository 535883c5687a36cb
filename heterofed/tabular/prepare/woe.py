"""Defines the step of scorecards: the weight of evidence of a value's bin, fitted with labels."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from heterofed.errors import ConfigError
from heterofed.tabular.prepare.values import numbers, truths, words
from heterofed.tabular.prepare.work import Work
from heterofed.tabular.scorecard.binning import bin_column
from heterofed.tabular.scorecard.evidence import Evidence, evidence


class WOE(msgspec.Struct, tag="woe"):
    """Converts values to the weight of evidence of their bins (see `heterofed.tabular.scorecard`).

    Missing values have a bin of their own. The step is fitted with the labels of the train rows,
    which must be of two classes, so only the Host can use it. The bins, and how many rows of each
    class are in each, are kept with the half.

    Args:
        most: the most bins of a column, without those of missing values and other words.
        least_share: the smallest share of the rows that a bin may have.
        monotonic: whether the rate of the positive rows may only rise or only fall from bin to bin.
        columns: the columns of the step; None for all numeric, boolean and category ones.
    """

    most: int = 6
    least_share: float = 0.05
    monotonic: bool = False
    columns: list[str] | None = None
    evidence: dict[str, Evidence] = {}

    def fit(self, work: Work) -> WOE:
        """Return the step, fitted on the train rows and their labels."""
        if work.labels is None:
            raise ConfigError(
                "prepare: WOE is fitted by labels of two classes, and there are none; leave it out"
            )
        chosen = work.chosen(self.columns, ["numeric", "boolean", "category"], "WOE")
        return msgspec.structs.replace(
            self, evidence={name: self._weighed(work, name) for name in chosen}
        )

    def apply(self, work: Work) -> None:
        """Convert the columns of these rows."""
        for name, found in self.evidence.items():
            work.dense[self.input_of(name)] = found.transform(_values(work, name)).astype(
                np.float32
            )
            work.take(name)

    @staticmethod
    def input_of(column: str) -> str:
        """Return the name of the model's input that is made from a column."""
        return f"WOE of {column}"

    def _weighed(self, work: Work, name: str) -> Evidence:
        values = _values(work, name)
        bins = bin_column(
            values,
            work.labels,
            work.weights,
            column=name,
            most=self.most,
            least_share=self.least_share,
            monotonic=self.monotonic,
        )
        return evidence(bins, values, work.labels, work.weights)


def _values(work: Work, name: str) -> Any:
    """Return the cells of a column as `bin_column` takes them."""
    series = work.columns[name]
    if work.kinds[name] == "numeric":
        return numbers(series, name)
    return truths(series, name) if work.kinds[name] == "boolean" else words(series)
