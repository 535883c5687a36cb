"""The summary that a run prints at its end: costs by phase, leaks, and the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from heterofed.reporting.console import path_shown
from heterofed.reporting.costs import PhaseCost, shares
from heterofed.reporting.units import bytes_shown, seconds_shown


def summary_of(
    heading: str,
    *,
    phases: Mapping[str, PhaseCost],
    leaks: Iterable[str],
    folder: Path,
    files: Iterable[Path],
) -> str:
    """Return the summary of a run, in lines.

    Args:
        heading: the first line.
        phases: the cost of each phase, by name.
        leaks: the worst findings of the leak report, in lines.
        folder: the results folder.
        files: the files in it to name.
    """
    lines = [heading]
    if phases:
        lines.append(_row("phase", "time", "sent", "received"))
    lines += [
        _row(
            name,
            seconds_shown(cost.seconds),
            bytes_shown(cost.bytes_sent),
            bytes_shown(cost.bytes_received),
        )
        for name, cost in phases.items()
    ]
    if train := phases.get("train"):
        spent = shares(train.seconds, train.compute, train.encode, train.waits)
        lines.append(f"  train: {spent}")
        if len(train.waits) > 1 and train.slowest:
            lines.append(f"  slowest party: {train.slowest}")
    lines += [f"  leak: {each}" for each in leaks]
    if names := [path.name for path in files]:
        lines.append(f"  in {path_shown(folder)}/: {', '.join(names)}")
    return "\n".join(lines)


def _row(phase: str, seconds: str, sent: str, received: str) -> str:
    return f"  {phase:<11}{seconds:>11}{sent:>12}{received:>12}"
