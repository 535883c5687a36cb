"""Reads and writes `evaluation.json`, which has the results of an evaluation of predictions.

Whoever evaluates a model writes this file into the results folder, as `heterofed.tabular` does. The
report draws the parts that it knows and lists the rest. The file holds numbers over many rows, and
no id or number of a single row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct, field

from heterofed.report.model import Curve, Evaluated, Figure, Point, Score, Table
from heterofed.report.sources import Sources, number, shown
from heterofed.report.thinning import spread, thinned
from heterofed.report.words import meaning_of

FILE = "evaluation.json"

MAX_PARTS = 64
"""The most metrics, curves and tables that are shown; further ones are left out."""
MAX_ROWS = 200
"""The most rows of a table that are shown."""
MAX_COLUMNS = 50
MAX_CLOUD = 500
"""The most points of a scatter plot that are drawn."""

MAX_NOTES = 20

Numbers = Annotated[list[float | None], Meta(max_length=1_000_000)]


class Interval(Struct, frozen=True):
    """A metric with its confidence interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Drawn(Struct, frozen=True):
    """A curve.

    Attributes:
        x, y: the coordinates, equally many of each; points with a null are left out.
        labels: the names of the two axes; well-known curves have names from the report.
        style: "line", or "points" for a scatter plot.
    """

    x: Numbers
    y: Numbers
    labels: tuple[str, str] = ("x", "y")
    style: str = "line"


class Cells(Struct, frozen=True):
    """A table: the names of its columns, and rows of numbers and text."""

    columns: list[str]
    rows: list[list[str | float | int | None]]


class Evaluation(Struct, frozen=True):
    """The content of `evaluation.json`.

    Attributes:
        kind: the kind of task: "binary", "multiclass", "regression", or a word of your own.
        on: the rows that were evaluated: "test" or "validation".
        rows: the number of these rows.
        round: the round of the evaluated model.
        metrics: a number, an interval, or null for an undefined metric, by name.
        curves: the curves by name. `roc`, `pr`, `calibration`, `gain`, `lift` and `residuals` are
            explained.
        tables: the tables by name. `confusion` has a column of true classes, then one of each
            predicted class.
        notes: sentences about metrics that are undefined or doubtful.
    """

    kind: str = ""
    on: str = ""
    rows: int | None = None
    round: int | None = None
    metrics: dict[str, float | Interval | None] = field(default_factory=dict)
    curves: dict[str, Drawn] = field(default_factory=dict)
    tables: dict[str, Cells] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class _Known(Struct, frozen=True):
    """The way in which a well-known curve is drawn."""

    title: str
    x: str
    y: str
    note: str
    diagonal: bool = False


KNOWN = {
    "roc": _Known(
        "ROC",
        "false positive rate",
        "true positive rate",
        "How many of the true cases are found, against how many false alarms that takes. The dashed"
        " line is guessing; the further above it, the better.",
        diagonal=True,
    ),
    "pr": _Known(
        "Precision and recall",
        "recall",
        "precision",
        "Of the cases that are flagged, how many are true, against how many of all true cases are"
        " flagged.",
    ),
    "calibration": _Known(
        "Calibration",
        "predicted",
        "observed",
        "What happened, on average, where about so much was predicted. On the dashed line"
        " predictions can be taken at their word.",
        diagonal=True,
    ),
    "gain": _Known(
        "Cumulative gain",
        "share of rows, highest score first",
        "share of true cases found",
        "How many of the true cases are among the rows with the highest scores. The dashed line is"
        " picking at random.",
        diagonal=True,
    ),
    "lift": _Known(
        "Lift",
        "share of rows, highest score first",
        "times as many as at random",
        "How many times more true cases there are among the highest scores than anywhere.",
    ),
    "residuals": _Known(
        "Residuals",
        "label - prediction",
        "rows",
        "How far predictions are off, as a distribution. Around 0 and narrow is good.",
    ),
}


def evaluated(sources: Sources) -> Evaluated | None:
    """Return what `evaluation.json` says, limited in size, for the report; None if there is no
    file.
    """
    found = sources.struct(FILE, Evaluation)
    if found is None:
        return None
    return Evaluated(
        kind=shown(found.kind),
        on=shown(found.on),
        rows=found.rows,
        round=found.round,
        scores=_scores(found),
        figures=_figures(found),
        tables=[_table(name, each) for name, each in list(found.tables.items())[:MAX_PARTS]],
        notes=[shown(each) for each in found.notes[:MAX_NOTES]],
    )


def _scores(found: Evaluation) -> list[Score]:
    scores = []
    for name, given in list(found.metrics.items())[:MAX_PARTS]:
        each = given if isinstance(given, Interval) else Interval(given)
        scores.append(
            Score(
                shown(name),
                number(each.value),
                number(each.low),
                number(each.high),
                meaning_of(name),
            )
        )
    return scores


def _figures(found: Evaluation) -> list[Figure]:
    drawn = list(found.curves.items())[:MAX_PARTS]
    return [
        _figure(name, each, points) for name, each in drawn if (points := _points(each.x, each.y))
    ]


def _points(x: Sequence[float | None], y: Sequence[float | None]) -> list[Point]:
    pairs = zip(x, y, strict=False)
    return [(one, other) for one, other in pairs if one is not None and other is not None]


def _figure(name: str, drawn: Drawn, points: list[Point]) -> Figure:
    x, y = map(shown, drawn.labels)
    known = KNOWN.get(name) or _Known(shown(name), x, y, "")
    cloud = drawn.style == "points"
    values = [value for point in points for value in point]
    shares = known.diagonal and min(values) >= 0 and max(values) <= 1
    return Figure(
        known.title,
        known.x,
        known.y,
        [Curve(shown(name), spread(points, MAX_CLOUD) if cloud else thinned(points))],
        style="points" if cloud else "line",
        diagonal=known.diagonal,
        x_span=(0, 1) if shares else None,
        y_span=(0, 1) if shares else None,
        note=known.note,
    )


def _table(name: str, cells: Cells) -> Table:
    rows = [
        [shown(each) if isinstance(each, str) else each for each in row[:MAX_COLUMNS]]
        for row in cells.rows[:MAX_ROWS]
    ]
    columns = [shown(each) for each in cells.columns[:MAX_COLUMNS]]
    rows = [[*row, *[None] * (len(columns) - len(row))][: len(columns)] for row in rows]
    return Table(shown(name), columns, rows, is_matrix=name == "confusion")
