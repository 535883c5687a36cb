"""`evaluation.json` in a results folder: what an evaluation of predictions found, for the report.

Whoever evaluates a model writes one; the report draws what it knows and lists the rest. It holds
numbers of many rows: no id, and nothing of single rows.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from heterofed.errors import ConfigError
from heterofed.report.model import Curve, Evaluated, Figure, Point, Score, Table
from heterofed.report.sources import Sources, number, shown
from heterofed.report.thinning import spread, thinned
from heterofed.report.words import meaning_of
from heterofed.reporting.results import write_whole

FILE = "evaluation.json"

MAX_PARTS = 64
"""Metrics, curves, and tables; what comes after is left out."""
MAX_ROWS = 200
"""Of a table."""
MAX_COLUMNS = 50
MAX_CLOUD = 500
"""Points of a cloud that are drawn."""

Points = Annotated[list[tuple[float, float]], Meta(max_length=1_000_000)]


class Interval(Struct, frozen=True):
    """A metric with its confidence interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Drawn(Struct, frozen=True, omit_defaults=True):
    """A curve of one's own: points, and names of the axes."""

    points: Points
    x: str = "x"
    y: str = "y"
    style: str = "line"


class Cells(Struct, frozen=True):
    """A table: names of its columns, then rows of numbers and text."""

    columns: list[str]
    rows: list[list[str | float | int | None]]


class Evaluation(Struct, frozen=True, omit_defaults=True):
    """What `evaluation.json` holds.

    Attributes:
        kind: of task: "binary", "multiclass", "regression", or a word of your own.
        on: of which rows: "test", "validation".
        rows: how many they are.
        round: of which round the model is.
        metrics: by name, a number or an interval.
        curves: by name, points [x, y]. Those called `roc`, `precision_recall`, `calibration`,
            `gain`, `lift`, `residuals`, `residuals_by_prediction`, `ks` and `threshold` have axes
            of their own; for others give a `Drawn`.
        tables: by name; `confusion` has a column of true classes, then a column of each predicted
            one.
    """

    kind: str = ""
    on: str = ""
    rows: int | None = None
    round: int | None = None
    metrics: dict[str, float | Interval | None] = field(default_factory=dict)
    curves: dict[str, Points | Drawn] = field(default_factory=dict)
    tables: dict[str, Cells] = field(default_factory=dict)


class _Known(Struct, frozen=True):
    """How a well-known curve is drawn."""

    title: str
    x: str
    y: str
    note: str
    style: str = "line"
    diagonal: bool = False
    unit: bool = True


KNOWN = {
    "roc": _Known(
        "ROC",
        "false positive rate",
        "true positive rate",
        "How many of the true cases are found, against how many false alarms that takes. The dashed"
        " line is guessing; the further above it, the better.",
        diagonal=True,
    ),
    "precision_recall": _Known(
        "Precision and recall",
        "recall",
        "precision",
        "Of the cases that are flagged, how many are true, against how many of all true cases are"
        " flagged.",
    ),
    "calibration": _Known(
        "Calibration",
        "predicted probability",
        "observed share",
        "Whether a predicted 30 % happens in 30 % of cases. On the dashed line predictions can be"
        " taken at their word.",
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
    "ks": _Known(
        "Kolmogorov-Smirnov",
        "threshold",
        "distance",
        "How far the scores of the two classes lie apart, by threshold.",
        unit=False,
    ),
    "lift": _Known(
        "Lift",
        "share of rows, highest score first",
        "times as many as at random",
        "How many times more true cases there are among the highest scores than anywhere.",
        unit=False,
    ),
    "threshold": _Known(
        "By threshold",
        "threshold",
        "value",
        "What a decision at each threshold gives.",
        unit=False,
    ),
    "residuals": _Known(
        "Residuals",
        "residual",
        "rows",
        "How far predictions are off, as a distribution. Around 0 and narrow is good.",
        unit=False,
    ),
    "residuals_by_prediction": _Known(
        "Residuals by prediction",
        "predicted",
        "residual",
        "How far predictions are off, by what was predicted. A pattern is something that the model"
        " has missed.",
        style="points",
        unit=False,
    ),
}


def write_evaluation(folder: Path, evaluation: Evaluation) -> Path:
    """Write `evaluation.json` into a results folder; gives its path.

    Args:
        folder: of a run of this party.
        evaluation: what was found.

    Raises:
        ConfigError: a metric or a point is NaN or infinite, which JSON has no word for.
        ResultsError: it cannot be written.
    """
    raw = msgspec.json.format(msgspec.json.encode(evaluation), indent=1)
    try:
        again = msgspec.json.decode(raw, type=Evaluation)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{FILE}: {error}; give finite numbers, and leave out metrics that have none"
        ) from None
    lost = [name for name, each in again.metrics.items() if _value_of(each) is None]
    if lost:
        raise ConfigError(f"{FILE}: {', '.join(lost)} is NaN or infinite; leave it out")
    return write_whole(folder / FILE, lambda file: file.write(raw))


def evaluated(sources: Sources) -> Evaluated | None:
    """What `evaluation.json` says, bounded and ready to be shown; None where there is none."""
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
    )


def _scores(found: Evaluation) -> list[Score]:
    scores = []
    for name, given in list(found.metrics.items())[:MAX_PARTS]:
        low, high = (given.low, given.high) if isinstance(given, Interval) else (None, None)
        if (value := number(_value_of(given))) is not None:
            scores.append(Score(shown(name), value, number(low), number(high), meaning_of(name)))
    return scores


def _value_of(given: float | Interval | None) -> float | None:
    return given.value if isinstance(given, Interval) else given


def _figures(found: Evaluation) -> list[Figure]:
    figures = []
    for name, given in list(found.curves.items())[:MAX_PARTS]:
        own = given if isinstance(given, Drawn) else Drawn(given)
        known = KNOWN.get(name) or _Known(
            shown(name), shown(own.x), shown(own.y), "", own.style, unit=False
        )
        cloud = known.style == "points"
        points: list[Point] = [each for each in own.points if all(map(math.isfinite, each))]
        if points:
            points = spread(points, MAX_CLOUD) if cloud else thinned(points)
            figures.append(
                Figure(
                    known.title,
                    known.x,
                    known.y,
                    [Curve(shown(name), points)],
                    style="points" if cloud else "line",
                    diagonal=known.diagonal,
                    x_span=(0, 1) if known.unit else None,
                    y_span=(0, 1) if known.unit else None,
                    note=known.note,
                )
            )
    return figures


def _table(name: str, cells: Cells) -> Table:
    rows = [
        [shown(each) if isinstance(each, str) else each for each in row[:MAX_COLUMNS]]
        for row in cells.rows[:MAX_ROWS]
    ]
    columns = [shown(each) for each in cells.columns[:MAX_COLUMNS]]
    rows = [[*row, *[None] * (len(columns) - len(row))][: len(columns)] for row in rows]
    return Table(shown(name), columns, rows, is_matrix=name == "confusion")
