"""Describes the leaks of `leakage.csv` and the guarantees of `privacy.csv` in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from heterofed.report.figures import course
from heterofed.report.model import Curve, Epsilon, Figure, LeakFound, Point
from heterofed.report.sources import Sources, number, shown, whole
from heterofed.report.thinning import thinned
from heterofed.report.words import EPSILONS, LEVEL_WORDS, leak_words, level_of, odds

LEAKAGE = frozenset({"round", "party", "attack", "measure", "value", "samples"})
"""The columns of heterofed's own `leakage.csv`; a user may have a metrics set of the same name."""

MAX_LEAKS, MAX_FIGURES = 200, 12
LEAST = {"label AUC": "0.5 is nothing, 1 is everything", "share": "0 is nothing, 1 is everything"}
"""The meaning of the two ends of each measure."""

Row = Mapping[str, str]


def leaks(sources: Sources) -> list[LeakFound]:
    """Return the worst result of each attack, by party; the worst one first."""
    found = [_leak(*key, rows) for key, rows in _attacks(sources).items()]
    return sorted(found, key=lambda each: -each.severity)


def leak_figures(sources: Sources) -> list[Figure]:
    """Return the results over the rounds of each attack that ran in several: a figure per party."""
    curves: dict[tuple[str, str], list[Curve]] = {}
    for (party, attack), rows in _attacks(sources).items():
        points = course(rows, "value")
        if len(points) > 1:
            is_auc = rows[0]["measure"] == "auc"
            name = "label AUC" if is_auc else "share"
            curves.setdefault((party, name), []).append(Curve(shown(attack), thinned(points)))
    return [
        Figure(
            shown(party),
            "round",
            name,
            some,
            y_span=(0.5, 1.0) if name == "label AUC" else (0.0, 1.0),
            note=f"What {shown(party)} could read: {LEAST[name]}.",
        )
        for (party, name), some in list(curves.items())[:MAX_FIGURES]
    ]


def _attacks(sources: Sources) -> dict[tuple[str, str], list[Row]]:
    """Return the rows of `leakage.csv` by the party that could read the data, and by attack."""
    rows = sources.table("leakage.csv")
    if not rows or set(rows[0]) != LEAKAGE:
        return {}
    attacks: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if number(row["value"]) is not None and number(row["round"]) is not None:
            attacks.setdefault((row["party"], row["attack"]), []).append(row)
    return dict(list(attacks.items())[:MAX_LEAKS])


def epsilons(sources: Sources) -> list[Epsilon]:
    """Return the guarantees of this party after the last round."""
    rows = sources.table("privacy.csv")
    if not rows or not set(rows[0]) <= {"round", "delta", *EPSILONS}:
        return []
    return [_epsilon(name, rows) for name in EPSILONS if _told(rows, name) is not None]


def severity_of(measure: str, value: float) -> float:
    """Return the severity from 0 (nothing leaks) to 1 (everything leaks)."""
    severity = 2 * value - 1 if measure == "auc" else value
    return min(1.0, max(0.0, severity))


def _leak(party: str, attack: str, rows: Sequence[Row]) -> LeakFound:
    measure = rows[0]["measure"]
    worst = max(rows, key=lambda row: float(row["value"]))
    value = float(worst["value"])
    severity, (title, what) = severity_of(measure, value), leak_words(attack)
    level, name = level_of(severity), shown(party)
    points = course(rows, "value")
    return LeakFound(
        party=name,
        attack=shown(attack),
        measure=shown(measure),
        title=shown(title),
        what=what,
        worst=value,
        last=points[-1][1],
        severity=severity,
        level=level,
        sentence=f"{name} {LEVEL_WORDS[level]} {what}",
        samples=whole(worst["samples"]) or 0,
    )


def _told(rows: Sequence[Row], name: str) -> float | None:
    """Return the last epsilon; infinity if there is no limit, None without such a defence."""
    for row in reversed(rows):
        try:
            value = float(row.get(name, ""))
        except ValueError:
            continue
        if not math.isnan(value):
            return value
    return None


def _epsilon(name: str, rows: Sequence[Row]) -> Epsilon:
    last = number(_told(rows, name))
    title, covers, not_covered = EPSILONS[name]
    points = course(rows, name)
    grows = len({value for _, value in points}) > 1
    return Epsilon(
        column=name,
        title=title,
        value=last,
        meaning=odds(last),
        covers=covers,
        not_covered=not_covered,
        figure=_growth(points) if grows else None,
    )


def _growth(points: list[Point]) -> Figure:
    most = max(value for _, value in points)
    curve = Curve("epsilon", thinned(points))
    return Figure("By round", "round", "epsilon", [curve], y_span=(0.0, most))
