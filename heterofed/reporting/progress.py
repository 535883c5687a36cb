"""Shows a progress bar for each phase in a terminal, with the time left and log lines above it.

This module is separate from `console`, so that `rich` is loaded only if there is a terminal.
"""

from __future__ import annotations

import logging

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from heterofed.events import Event, PhaseBegan, PhaseEnded, Progressed
from heterofed.reporting.terminal import THEME, Lines
from heterofed.reporting.units import seconds_shown

LONGEST_BAR = 40
ESTIMATED_OVER = 300.0
"""Seconds over which the speed is taken: a batch may take a minute."""
SPEED_FROM, ELAPSED_FROM = 76, 100
"""Columns of a terminal from which on these are shown."""
TAKEN, SPEED, ELAPSED = 52, 10, 12
"""Columns that everything else on the line takes, that the speed takes, and that the time takes."""


class _Speed(ProgressColumn):
    """The speed in units per second, once some units are done."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s".rjust(SPEED - 1))


class _Elapsed(ProgressColumn):
    """How long the phase has been running."""

    def render(self, task: Task) -> Text:
        return Text(seconds_shown(task.elapsed or 0.0).rjust(ELAPSED - 1), style="dim")


class _Left(ProgressColumn):
    """How long it will still take, where it is known how much there is to do."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        if left is None or task.finished:
            return Text()
        return Text(f"{left:.0f} s left" if left < 60 else f"{seconds_shown(left)} left")


class Bars:
    """The progress bar on stderr of the current phase."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, theme=THEME, highlight=False)
        self._progress = Progress(
            *columns(self._console.width),
            console=self._console,
            transient=True,
            speed_estimate_period=ESTIMATED_OVER,
        )
        self._bar: TaskID | None = None
        self._done = 0
        self._took: dict[str, int] = {}

    def log_handler(self) -> logging.Handler:
        """Return a log handler that writes its lines above the bar."""
        return Lines(self._console)

    def __call__(self, event: Event) -> None:
        match event:
            case PhaseBegan():
                self._progress.start()
                label = f"{event.phase} {event.round}" if event.round else event.phase
                # A round is expected to take as many batches as the last one.
                total = self._took.get(event.phase) if event.total is None else event.total
                self._bar = self._progress.add_task(label, total=total, unit=event.unit)
                self._done = 0
            case Progressed(done, total) if self._bar is not None:
                self._done = done
                self._progress.update(self._bar, completed=done, total=total)
            case PhaseEnded() if self._bar is not None:
                self._progress.remove_task(self._bar)
                self._bar = None
                if self._done:
                    self._took[event.phase] = self._done
            case _:
                pass

    def close(self) -> None:
        """Remove the bar from the screen."""
        self._progress.stop()


def columns(width: int) -> list[ProgressColumn]:
    """What a line of this width has room for; the bar takes what is left, up to `LONGEST_BAR`."""
    speed, elapsed = width >= SPEED_FROM, width >= ELAPSED_FROM
    room = width - TAKEN - SPEED * speed - ELAPSED * elapsed
    shown: list[ProgressColumn] = [
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=max(6, min(LONGEST_BAR, room))),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
    ]
    shown += [_Speed()] if speed else []
    shown += [_Elapsed()] if elapsed else []
    return [*shown, _Left()]
