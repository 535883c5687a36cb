"""Shows a progress bar for each phase in a terminal, with log lines above it.

This module is separate from `console`, so that `rich` is loaded only if there is a terminal.
"""

from __future__ import annotations

import logging

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from heterofed.events import Event, PhaseBegan, PhaseEnded, Progressed


class _Speed(ProgressColumn):
    """The speed in units per second, once some units are done."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


class Bars:
    """The progress bar on stderr of the current phase."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            _Speed(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._done = 0
        self._took: dict[str, int] = {}

    def log_handler(self) -> logging.Handler:
        """Return a log handler that writes its lines above the bar."""
        return RichHandler(console=self._console, show_path=False, show_level=False, markup=False)

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
