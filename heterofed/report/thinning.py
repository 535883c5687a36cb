"""Fewer points that look the same: extremes stay."""

from __future__ import annotations

from collections.abc import Sequence

from heterofed.report.model import Point

MOST = 240
"""Points of a curve: about two for each step of a screen's width that can be told apart."""


def thinned(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most `most` points of a curve, in its order: the first, the last, and of each stretch
    between them the lowest and the highest.
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
    """At most `most` points of a cloud, evenly by position."""
    if len(points) <= most:
        return list(points)
    return [points[len(points) * at // most] for at in range(most)]
