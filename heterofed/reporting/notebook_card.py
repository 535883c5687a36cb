"""The results of a run as HTML, for the end of a cell of a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heterofed.reporting import markup
from heterofed.reporting.units import bytes_shown, seconds_shown, value_shown

if TYPE_CHECKING:
    from heterofed.reporting.results import TaskResult


def card_of(result: TaskResult) -> str:
    """Return a party's result: its last metrics, what leaked, its costs, and its files."""
    note = f"{result.rounds} rounds in {seconds_shown(result.seconds)}"
    if result.ids:
        note += f", {result.ids:,} common ids"
    return markup.card(
        f"{result.party}: task {result.task_id}",
        note,
        _metrics(result),
        markup.listed(f"leak: {each}" for each in result.leaks),
        markup.folded("Time and traffic", _phases(result)) if result.phases else "",
        markup.folded("Files", markup.listed(_files(result))),
    )


def _metrics(result: TaskResult) -> str:
    rows = [
        (f"{name}: {key}", value_shown(value) if isinstance(value, int | float) else value)
        for name, last in result.last.items()
        for key, value in last.items()
        if key != "round"
    ]
    return markup.table(("metric", "last round"), rows) if rows else ""


def _phases(result: TaskResult) -> str:
    rows = [
        (
            name,
            seconds_shown(each.seconds),
            *map(bytes_shown, (each.bytes_sent, each.bytes_received)),
        )
        for name, each in result.phases.items()
    ]
    return markup.table(("phase", "time", "sent", "received"), rows)


def _files(result: TaskResult) -> list[str]:
    paths: list[Any] = [result.report, *result.metrics.values(), *result.models.values()]
    return [str(each) for each in paths if each is not None]
