"""The summary that a run prints at its end: costs by phase, leaks, and the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heterofed.reporting.console import path_shown
from heterofed.reporting.costs import shares
from heterofed.reporting.units import bytes_shown, seconds_shown

if TYPE_CHECKING:
    from heterofed.reporting.results import TaskResult


def summary_of(result: TaskResult) -> str:
    """Return the summary of a run, in lines."""
    lines = [f"{result.party}: task {result.task_id} done in {seconds_shown(result.seconds)}"]
    if result.phases:
        lines.append(_row("phase", "time", "sent", "received"))
    lines += [
        _row(
            name,
            seconds_shown(cost.seconds),
            bytes_shown(cost.bytes_sent),
            bytes_shown(cost.bytes_received),
        )
        for name, cost in result.phases.items()
    ]
    if train := result.phases.get("train"):
        spent = shares(train.seconds, train.compute, train.encode, train.waits)
        lines.append(f"  train: {spent}")
        if len(train.waits) > 1 and train.slowest:
            lines.append(f"  slowest party: {train.slowest}")
    lines += [f"  leak: {each}" for each in result.leaks]
    if names := [path.name for path in (*result.metrics.values(), *result.models.values())]:
        lines.append(f"  in {path_shown(result.folder)}/: {', '.join(names)}")
    return "\n".join(lines)


def _row(phase: str, seconds: str, sent: str, received: str) -> str:
    return f"  {phase:<11}{seconds:>11}{sent:>12}{received:>12}"
