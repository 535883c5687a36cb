"""Says what a take-home model loses: the same test rows, judged by three models."""

from __future__ import annotations

from typing import Any

import msgspec

from heterofed.tabular.objectives import Kind
from heterofed.tabular.worth import HEADLINE, Worth, worth

NAME = "take-home model"
"""The name of the table of an evaluation that has the comparison."""


class Interval(msgspec.Struct, frozen=True):
    """A difference with the bounds of its 95 % interval, by a paired bootstrap over the rows."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, found: Worth) -> Interval:
        """Return the gain of a comparison."""
        return cls(found.gain, found.low, found.high)


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The quality of the joint model, of the take-home one, and of one that learnt from labels.

    Attributes:
        metric: the metric, of which a larger value is better (a loss counts negative).
        joint: that of the joint model.
        take_home: that of the model that learnt the joint one's scores.
        local: that of the same model if it learns from this party's labels instead.
        lost: how much better the joint model is than the take-home one.
        gained: how much better the take-home model is than the local one.
        test_rows: the number of rows on which they were compared; none of the models was trained
            on them.
        train_rows: the number of rows whose joint scores were learnt.
    """

    metric: str
    joint: float
    take_home: float
    local: float
    lost: Interval
    gained: Interval
    test_rows: int
    train_rows: int

    @classmethod
    def judged(
        cls,
        kind: Kind,
        labels: Any,
        scores: dict[str, Any],
        weights: Any,
        train_rows: int,
    ) -> Compared:
        """Compare the scores of three models, whose names are the attributes.

        Raises:
            ColumnError: the metric is undefined on these rows.
        """
        lost = worth(kind, labels, scores["joint"], scores["take_home"], weights)
        gained = worth(kind, labels, scores["take_home"], scores["local"], weights)
        return cls(
            metric=HEADLINE[kind],
            joint=lost.joint,
            take_home=lost.local,
            local=gained.local,
            lost=Interval.of(lost),
            gained=Interval.of(gained),
            test_rows=lost.rows,
            train_rows=train_rows,
        )

    def rows(self) -> list[list[str | float]]:
        """Return a row with the metric of each model, for the table of an evaluation."""
        return [["joint", self.joint], ["take-home", self.take_home], ["local", self.local]]

    def __str__(self) -> str:
        lost, gained = self.lost, self.gained
        return (
            f"{self.metric} {self.joint:.4f} joint, {self.take_home:.4f} take-home,"
            f" {self.local:.4f} local: the take-home model loses {lost.value:+.4f} (95% interval"
            f" {lost.low:+.4f} to {lost.high:+.4f}), and is {gained.value:+.4f}"
            f" ({gained.low:+.4f} to {gained.high:+.4f}) better than a local one, on"
            f" {self.test_rows} test rows"
        )
