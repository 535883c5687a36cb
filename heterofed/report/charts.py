"""Draws figures as SVG: the positions of ticks, and the paths of lines and points.

The style sheet of the page has the colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heterofed.report.model import Figure, Point
from heterofed.reporting.units import value_shown

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 36
"""The space for the labels of the axes, in pixels of a figure that is as wide as a phone."""
TICKS = 5
"""The approximate number of ticks on each axis."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the grid, with its position and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: its name, path, and last point; `number` chooses its colour and dashes."""

    name: str
    number: int
    path: str
    end: Point


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure that is ready to be drawn.

    Attributes:
        figure: the figure of the report.
        x_ticks, y_ticks: the lines of the grid.
        lines: its curves.
        diagonal: the path of the dashed diagonal; empty without one.
        summary: a description of the figure for people who cannot see it.
    """

    figure: Figure
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    diagonal: str
    summary: str

    width, height, left, right = WIDTH, HEIGHT, LEFT, WIDTH - RIGHT
    top, bottom = TOP, HEIGHT - BOTTOM


@dataclass(frozen=True, slots=True)
class _Scale:
    """Converts values to positions."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def chart(figure: Figure) -> Chart:
    """Lay out a figure, which has at least one point."""
    points = [point for curve in figure.curves for point in curve.points]
    x_values = figure.x_span or _span(point[0] for point in points)
    y_values = figure.y_span or _span(point[1] for point in points)
    x_marks = _whole_ticks(*x_values) if figure.x == "round" else _ticks(*x_values)
    y_marks = _ticks(*y_values)
    if figure.y_span is None:  # the grid goes around the curves
        y_marks = _ticks(*y_values, around=True)
        y_values = min(y_values[0], y_marks[0]), max(y_values[1], y_marks[-1])
    across = _Scale(*x_values, LEFT, WIDTH - RIGHT)
    up = _Scale(*y_values, HEIGHT - BOTTOM, TOP)
    draw = _cloud if figure.style == "points" else _line
    return Chart(
        figure,
        [Tick(across(each), value_shown(each)) for each in x_marks],
        [Tick(up(each), value_shown(each)) for each in y_marks],
        [
            Line(
                curve.name, number, draw(curve.points, across, up), _last(curve.points, across, up)
            )
            for number, curve in enumerate(figure.curves)
        ],
        _diagonal(across, up) if figure.diagonal else "",
        _summary(figure),
    )


def _span(values: Iterable[float]) -> tuple[float, float]:
    """Return the range of values; a single value gets some space around it."""
    some = list(values)
    low, high = min(some), max(some)
    if high - low > 1e-12 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) / 10 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float, *, around: bool = False) -> list[float]:
    """Return round numbers from `low` to `high`, or just around them."""
    step = _step((high - low) / TICKS)
    outward = 1e-9 if around else -1e-9
    first, last = low / step + outward, high / step - outward
    numbers = (
        (math.floor(first), math.ceil(last)) if around else (math.ceil(first), math.floor(last))
    )
    return [round(each * step, 12) for each in range(numbers[0], numbers[1] + 1)]


def _whole_ticks(low: float, high: float) -> list[float]:
    """Return whole numbers from `low` to `high`."""
    step = max(1, round(_step((high - low) / TICKS)))
    return [each * step for each in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _step(rough: float) -> float:
    """Return 1, 2 or 5 times a power of ten that is close to a number."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * each for each in (1, 2, 5, 10) if power * each >= 0.999 * rough)


def _line(points: Sequence[Point], across: _Scale, up: _Scale) -> str:
    steps = (f"{across(x):g} {up(y):g}" for x, y in points)
    path = "M" + "L".join(steps)
    return path if len(points) > 1 else path + "h0"  # a round cap makes a dot of it


def _diagonal(across: _Scale, up: _Scale) -> str:
    """Return the path of x = y within both axes; empty if their ranges do not overlap."""
    low, high = max(across.low, up.low), min(across.high, up.high)
    return _line([(low, low), (high, high)], across, up) if low < high else ""


def _cloud(points: Sequence[Point], across: _Scale, up: _Scale) -> str:
    return "".join(f"M{across(x):g} {up(y):g}h0" for x, y in points)


def _last(points: Sequence[Point], across: _Scale, up: _Scale) -> Point:
    return across(points[-1][0]), up(points[-1][1])


def _summary(figure: Figure) -> str:
    parts = []
    for curve in figure.curves:
        first, last = curve.points[0], curve.points[-1]
        name = f"{curve.name}: " if len(figure.curves) > 1 else ""
        parts.append(
            f"{name}from {value_shown(first[1])} at {figure.x} {value_shown(first[0])}"
            f" to {value_shown(last[1])} at {figure.x} {value_shown(last[0])}"
        )
    if figure.style == "points":
        count = sum(len(curve.points) for curve in figure.curves)
        return f"{figure.y} against {figure.x}, {count} points."
    return f"{figure.y} by {figure.x}, {'; '.join(parts)}."
