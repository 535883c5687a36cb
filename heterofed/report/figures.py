"""Reads the metrics of the rounds and of baselines from the CSV files of a run.

A metrics set is a CSV file with a column `round` of numbers. Columns that have anything else than
numbers are left out, because text in a results folder is the user's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from heterofed.metrics import NO_METRICS
from heterofed.report.model import Baseline, Curve, Figure, Metric, MetricSet, Point, Table
from heterofed.report.sources import Sources, number, shown
from heterofed.report.thinning import thinned
from heterofed.report.words import meaning_of

MAX_SETS, MAX_METRICS = 24, 24
"""The most sets of a run, and the most columns of a set, that are shown."""
MAX_LAST = 200
"""The most rows of the last round that are shown."""
MODES = ("joint", "local", "pooled")

Rows = Sequence[Mapping[str, str]]


def metric_sets(sources: Sources) -> list[MetricSet]:
    """Return all metrics sets of a run; that of training is the last."""
    sets = [
        one
        for name in sources.tables()
        if (stem := name.removesuffix(".csv")) not in NO_METRICS
        and (one := _set(stem, sources.table(name))) is not None
    ]
    return sorted(sets, key=lambda each: each.name == "train")[:MAX_SETS]


def baselines(sources: Sources) -> list[Baseline]:
    """Return the results of the baselines beside those of the run; empty if none were trained."""
    inner = Sources(sources.folder / "baselines", sources.unread)
    found = []
    for name in inner.tables()[:MAX_SETS]:
        rows = inner.table(name)
        for column in _columns(rows)[:MAX_METRICS]:
            curves = {
                mode: curve
                for mode in MODES
                if (curve := course([row for row in rows if row.get("mode") == mode], column))
            }
            if len(curves) > 1:
                found.append(_baseline(column, curves))
    return found


def course(rows: Rows, column: str) -> list[Point]:
    """Return the values of a column by round; of several rows of a round the last one counts."""
    points = {}
    for row in rows:
        at, value = number(row.get("round")), number(row.get(column))
        if at is not None and value is not None:
            points[at] = value
    return sorted(points.items())


def _baseline(column: str, curves: Mapping[str, list[Point]]) -> Baseline:
    name = shown(column)
    figure = Figure(
        name, "round", name, [Curve(mode, thinned(points)) for mode, points in curves.items()]
    )
    return Baseline(name, {mode: points[-1][1] for mode, points in curves.items()}, figure)


def _set(name: str, rows: Rows) -> MetricSet | None:
    """Return a file as a metrics set; None if it is not one."""
    columns = _columns(rows)[:MAX_METRICS]
    if not columns:
        return None
    title, last = shown(name), [row for row in rows if row["round"] == rows[-1]["round"]]
    if len(last) == 1:
        return MetricSet(title, len(rows), [_metric(each, course(rows, each)) for each in columns])
    # The set has, for example, a row for each class, so no value has a course over rounds.
    cells: list[list[str | float | int | None]] = [
        [number(row[column]) for column in columns] for row in last[:MAX_LAST]
    ]
    table = Table("last round", [shown(each) for each in columns], cells)
    return MetricSet(title, len(rows), [], table)


def _columns(rows: Rows) -> list[str]:
    """Return the columns of numbers beside the round's, if all rounds are numbers."""
    names = list(rows[0]) if rows else []
    if "round" not in names or any(number(row["round"]) is None for row in rows):
        return []
    return [
        name
        for name in names
        if name not in ("round", "mode") and _are_numbers(row.get(name, "") for row in rows)
    ]


def _are_numbers(values: Iterable[str]) -> bool:
    """Return whether a column has numbers and otherwise only empty or non-finite cells."""
    filled = [each for each in values if each.lower() not in ("", "nan", "inf", "-inf")]
    return bool(filled) and all(number(each) is not None for each in filled)


def _metric(column: str, points: list[Point]) -> Metric:
    name = shown(column)
    return Metric(
        name,
        points[-1][1],
        min(points, key=lambda each: each[1]),
        max(points, key=lambda each: each[1]),
        Figure(name, "round", name, [Curve(name, thinned(points))]),
        meaning_of(column),
    )
