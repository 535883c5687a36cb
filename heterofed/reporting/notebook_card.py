"""The results of a run as HTML, for the end of a cell of a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from heterofed.reporting import markup
from heterofed.reporting.costs import PhaseCost
from heterofed.reporting.units import bytes_shown, seconds_shown, value_shown


def card_of(
    title: str,
    note: str,
    *,
    last: Mapping[str, Mapping[str, float | str]],
    leaks: Iterable[str],
    phases: Mapping[str, PhaseCost],
    files: Iterable[Path],
) -> str:
    """Return a party's result.

    Args:
        title: whose result of which task it is.
        note: what stands beside the title.
        last: the last row of each metrics set, by name of the set.
        leaks: the worst findings of the leak report, in lines.
        phases: the cost of each phase, by name.
        files: the files of the run.
    """
    return markup.card(
        title,
        note,
        _metrics(last),
        markup.listed(f"leak: {each}" for each in leaks),
        markup.folded("Time and traffic", _phases(phases)) if phases else "",
        markup.folded("Files", markup.listed(str(each) for each in files)),
    )


def _metrics(last: Mapping[str, Mapping[str, float | str]]) -> str:
    rows = [
        (f"{name}: {key}", value_shown(value) if isinstance(value, int | float) else value)
        for name, row in last.items()
        for key, value in row.items()
        if key != "round"
    ]
    return markup.table(("metric", "last round"), rows) if rows else ""


def _phases(phases: Mapping[str, PhaseCost]) -> str:
    rows = [
        (
            name,
            seconds_shown(each.seconds),
            *map(bytes_shown, (each.bytes_sent, each.bytes_received)),
        )
        for name, each in phases.items()
    ]
    return markup.table(("phase", "time", "sent", "received"), rows)
