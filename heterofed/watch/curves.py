"""Loss and metrics by round as figures, of one run or of two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from heterofed.report.model import Curve, Figure, Point
from heterofed.report.sources import shown
from heterofed.report.thinning import thinned
from heterofed.report.words import meaning_of
from heterofed.watch.run import Seen

MAX_FIGURES = 24

Courses = Mapping[str, list[Point]]


def courses(seen: Seen) -> dict[str, list[Point]]:
    """Loss and metrics by round, by name; those with no finite number are left out."""
    found: dict[str, list[Point]] = {}
    for each in sorted(seen.state.rounds.values(), key=lambda one: one.round):
        values = {"loss": each.loss} | {shown(name): one for name, one in each.metrics.items()}
        for name, value in values.items():
            if value is not None:
                found.setdefault(name, []).append((float(each.round), value))
    if not found:
        for one in seen.sets:
            for metric in one.metrics:
                found.setdefault(metric.name, metric.figure.curves[0].points)
    return dict(list(found.items())[:MAX_FIGURES])


def figures(seen: Seen) -> list[tuple[Figure, float]]:
    """Each course as a figure, with its last value."""
    return [
        (_figure(name, [Curve(name, thinned(points))]), points[-1][1])
        for name, points in courses(seen).items()
    ]


def compared(one: tuple[str, Seen], other: tuple[str, Seen]) -> list[Figure]:
    """The courses that both runs have, one over the other.

    Args:
        one: the name of the first run in the legend, and the run.
        other: the same of the second run.
    """
    first, second = courses(one[1]), courses(other[1])
    return [
        _figure(
            name,
            [Curve(one[0], thinned(first[name])), Curve(other[0], thinned(second[name]))],
        )
        for name in _common(first, second)
    ]


def _common(first: Courses, second: Courses) -> Iterable[str]:
    return (name for name in first if name in second)


def _figure(name: str, curves: list[Curve]) -> Figure:
    return Figure(name, "round", name, curves, note=meaning_of(name))


def with_note(figure: Figure, note: str) -> Figure:
    """The figure with another note."""
    return msgspec.structs.replace(figure, note=note)
