"""Defines the result of an evaluation: metrics, small tables and curves, and notes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heterofed.reporting import markup
from heterofed.tabular.objectives import Kind

CURVE_POINTS = 200


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve.

    Attributes:
        x, y: the coordinates of its points, at most 200.
        labels: the labels of the two axes.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[str, str]

    @classmethod
    def through(cls, x: Any, y: Any, labels: tuple[str, str]) -> Curve:
        """Return a curve through some of the points of two arrays, including the first and the
        last.
        """
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        if len(x) > CURVE_POINTS:
            at = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).round().astype(int))
            x, y = x[at], y[at]
        return cls(tuple(x.tolist()), tuple(y.tolist()), labels)


@dataclass(frozen=True, slots=True)
class Table:
    """A small table.

    Attributes:
        columns: the names of the columns.
        rows: the rows, each with as many values as there are columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[Any]]) -> Table:
        """Return a table of columns of the same length."""
        return cls(tuple(columns), tuple(zip(*columns.values(), strict=True)))


@dataclass(slots=True)
class Evaluation:
    """The evaluation of scores on one set of rows.

    Attributes:
        kind: the kind of the task.
        rows: the number of rows.
        metrics: the metrics by name; NaN for an undefined one, which a note explains.
        curves: the curves by name: `roc`, `pr` and `calibration`; for numbers `calibration` and
            `residuals`.
        tables: the tables by name: `deciles` (lift and gain), `confusion`, `classes`, `labels`,
            `shares` (of the parties).
        notes: sentences about metrics that are undefined or doubtful.
    """

    kind: Kind
    rows: int
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]

    def __str__(self) -> str:
        width = max(map(len, self.metrics), default=0)
        lines = [f"{name:<{width}}  {_shown(each)}" for name, each in self.metrics.items()]
        return "\n".join([f"{self.kind}, {self.rows} rows", *lines, *self.notes])

    def _repr_html_(self) -> str:
        """Return the metrics for a notebook."""
        rows = [(name, _shown(each)) for name, each in self.metrics.items()]
        table = markup.table((self.kind, f"{self.rows} rows"), rows)
        return table + markup.listed(self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; undefined metrics are None."""
        return {
            "kind": self.kind,
            "rows": self.rows,
            "metrics": {name: _plain(each) for name, each in self.metrics.items()},
            "curves": {
                name: {"x": each.x, "y": each.y, "labels": each.labels}
                for name, each in self.curves.items()
            },
            "tables": {
                name: {
                    "columns": each.columns,
                    "rows": [[_plain(value) for value in row] for row in each.rows],
                }
                for name, each in self.tables.items()
            },
            "notes": list(self.notes),
        }


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: float) -> str:
    return (
        "undefined" if math.isnan(value) else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.6g}"
    )
