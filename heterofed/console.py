"""How a run looks in a terminal: log lines, a progress bar per phase, a line per round, a summary.

Attached by `launch_task` for as long as it runs, and only where nobody configured logging;
everything is written to stderr, so that stdout stays the script's own.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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

from heterofed.events import (
    Callback,
    Event,
    PartyLost,
    PhaseBegan,
    PhaseEnded,
    Progressed,
    Resumed,
    RoundEnded,
    StillWaiting,
)

logger = logging.getLogger("heterofed")


@contextmanager
def attached() -> Iterator[Callback]:
    """Show log lines and progress until the end of the block; yields the callback for events."""
    console = Console(stderr=True)
    handler: logging.Handler | None = None
    level = logger.level
    if not logger.hasHandlers():
        if console.is_terminal:
            handler = RichHandler(console=console, show_path=False, show_level=False, markup=False)
        else:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        if level == logging.NOTSET:
            logger.setLevel(logging.INFO)
    # One bar to a terminal: parties that are threads beside the first one show lines.
    on_main = threading.current_thread() is threading.main_thread()
    show = _Bars(console) if console.is_terminal and on_main else _Lines()
    try:
        yield show
    finally:
        show.close()
        if handler is not None:
            logger.removeHandler(handler)
            logger.setLevel(level)
            handler.close()


class _Speed(ProgressColumn):
    """Units a second, once there are some."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


class _Lines:
    """Events as log lines, for files and pipes."""

    def __call__(self, event: Event) -> None:
        match event:
            case StillWaiting(parties, seconds):
                logger.info("waiting for %s (%.0f s)", ", ".join(parties), seconds)
            case RoundEnded():
                logger.info("%s", round_line(event))
            case PartyLost(party, seconds):
                logger.warning(
                    "%s is gone: waiting up to %.0f s for it to come back", party, seconds
                )
            case Resumed():
                logger.info("going on from %s", shown_mark(event.round, event.batch))
            case PhaseEnded(phase="prepare" | "psi"):
                logger.info("%s: %.1f s", event.phase, event.seconds)
            case _:
                pass

    def close(self) -> None:
        """Nothing to put away."""


class _Bars(_Lines):
    """The same with a progress bar for the phase that is running."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            _Speed(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._bar: TaskID | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case PhaseBegan():
                self._progress.start()
                label = f"{event.phase} {event.round}" if event.round else event.phase
                self._bar = self._progress.add_task(label, total=event.total, unit=event.unit)
            case Progressed(done, total) if self._bar is not None:
                if total is not None:
                    self._progress.update(self._bar, completed=done, total=total)
                else:
                    self._progress.update(self._bar, completed=done)
            case PhaseEnded() if self._bar is not None:
                self._progress.remove_task(self._bar)
                self._bar = None
            case _:
                pass
        super().__call__(event)

    def close(self) -> None:
        """Take the bar off the screen."""
        self._progress.stop()


def round_line(event: RoundEnded) -> str:
    """`[ROUND 1/5] loss 1.2345  accuracy 0.5612  3.9 s`."""
    of = f"/{event.rounds}" if event.rounds else ""
    shown = [] if event.loss is None else [f"loss {event.loss:.4f}"]
    for key, value in event.metrics.items():
        if key not in ("round", "loss") or (key == "loss" and event.loss is None):
            shown.append(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}")
    return f"[ROUND {event.round}{of}] " + "  ".join([*shown, f"{event.seconds:.1f} s"])


def shown_mark(round_number: int, batch: int) -> str:
    """Where a checkpoint stands: `the split`, `round 3`, `round 4, batch 200`."""
    if batch:
        return f"round {round_number + 1}, batch {batch}"
    return f"round {round_number}" if round_number else "the split"


def megabytes(count: int) -> str:
    """A byte count for people."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
