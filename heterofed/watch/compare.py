"""Two runs beside each other: their curves, and a table of what differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from heterofed.report.sources import shown
from heterofed.reporting.units import bytes_shown, seconds_shown, value_shown
from heterofed.watch import words
from heterofed.watch.curves import compared, courses
from heterofed.watch.fragments import rendered
from heterofed.watch.run import Seen

MINUS = "\u2212"
NOT_COMPARED = frozenset({"host", "collaborators"})


class Row(NamedTuple):
    """A line of the table: what it is, of the one, of the other, and the difference."""

    name: str
    one: str
    other: str
    difference: str = ""


def parts(first: Seen, second: Seen) -> dict[str, str]:
    """The parts of the page that compares two runs, by the id of their place."""
    names = labels(first, second)
    pairs = (names[0], first), (names[1], second)
    return {
        "curves": rendered("compare_curves", figures=compared(*pairs)),
        "differences": rendered(
            "compare_table",
            names=names,
            states=[words.LIVES[each.life] for each in (first, second)],
            rows=[*numbers(first, second), *plans(first, second)],
        ),
    }


def labels(first: Seen, second: Seen) -> tuple[str, str]:
    """What the two runs are called: their tasks, or task and party where the tasks are the same."""
    if first.task != second.task:
        return first.task, second.task
    return f"{first.task}, {first.party}", f"{second.task}, {second.party}"


def numbers(first: Seen, second: Seen) -> Iterator[Row]:
    """Rounds, last metrics, seconds and bytes of both."""
    yield _row("Rounds trained", first.rounds, second.rounds, value_shown)
    one, other = courses(first), courses(second)
    for name in one:
        if name in other:
            yield _row(f"Last {name}", one[name][-1][1], other[name][-1][1], value_shown)
    for name, phase in first.state.phases.items():
        theirs = second.state.phases.get(name)
        if theirs is not None and phase.times and theirs.times:
            yield _row(f"Time in {shown(name)}", phase.seconds, theirs.seconds, seconds_shown)
    yield _row("Sent", _sum(first, "sent"), _sum(second, "sent"), bytes_shown)
    yield _row("Received", _sum(first, "received"), _sum(second, "received"), bytes_shown)
    if first.leaks and second.leaks:
        yield _row("Worst leak", first.leaks[0].worst, second.leaks[0].worst, value_shown)


def plans(first: Seen, second: Seen) -> Iterator[Row]:
    """Settings of the plans that differ."""
    one, other = first.status.plan, second.status.plan
    for name in sorted(one.keys() | other.keys()):
        if name not in NOT_COMPARED and one.get(name) != other.get(name):
            yield Row(f"Plan: {shown(name)}", shown(one.get(name)), shown(other.get(name)))


def _row(name: str, one: float, other: float, say: Any) -> Row:
    difference = other - one
    said = say(abs(difference))
    if said == say(0):
        return Row(name, say(one), say(other), said)
    return Row(name, say(one), say(other), f"{'+' if difference > 0 else MINUS}{said}")


def _sum(seen: Seen, what: str) -> int:
    return sum(getattr(each, what) for each in seen.state.phases.values())
