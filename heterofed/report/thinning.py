"""Reduces curves to fewer points that look the same; extremes are kept."""

from __future__ import annotations

from collections.abc import Sequence

from heterofed.report.model import Point

MOST = 240
"""The number of points of a curve: about two for each distinguishable step of a screen's width."""


def thinned(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """Return at most `most` points of a curve, in its order.

    They are the first, the last, and the lowest and the highest of each stretch between them.
    """
    if len(points) <= most:
        return list(points)
    stretches = (most - 2) // 2
    inner = range(1, len(points) - 1)
    kept = {0, len(points) - 1}
    for number in range(stretches):
        start, end = (len(inner) * at // stretches for at in (number, number + 1))
        stretch = inner[start:end]
        kept |= {
            min(stretch, key=lambda at: points[at][1]),
            max(stretch, key=lambda at: points[at][1]),
        }
    return [points[at] for at in sorted(kept)]


def spread(points: Sequence[Point], most: int) -> list[Point]:
    """Return at most `most` points of a scatter plot, evenly chosen by position."""
    if len(points) <= most:
        return list(points)
    return [points[len(points) * at // most] for at in range(most)]
