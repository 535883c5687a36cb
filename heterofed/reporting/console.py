"""Shows a run in a terminal: log lines, a progress bar per phase, a line per round, a summary. In
a notebook it shows one card instead.

`launch_task` attaches the console while it runs, and only if logging is not configured. Everything
is written to stderr, so that stdout is left to the script.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from heterofed.events import (
    Callback,
    Event,
    PartyLost,
    PhaseEnded,
    Resumed,
    RoundEnded,
    StillWaiting,
    without_progress,
)
from heterofed.files import fill_standard_streams
from heterofed.reporting.diagnostics import Harmless
from heterofed.reporting.log_lines import chosen_format, facts, formatter
from heterofed.reporting.notebook import card, in_notebook
from heterofed.reporting.tracebacks import plain_endings
from heterofed.reporting.units import seconds_shown
from heterofed.reporting.wrapping import is_terminal


class View(Protocol):
    """What shows the progress of a run: bars in a terminal, or a card in a notebook."""

    def __call__(self, event: Event) -> None:
        """Take an event."""

    def log_handler(self) -> logging.Handler:
        """Return the handler that shows log lines beside the progress."""

    def close(self) -> None:
        """End the view."""


logger = logging.getLogger("heterofed")


OWN = "heterofed console"
"""The name of the handler that shows log lines if logging is not configured."""


@contextmanager
def attached() -> Iterator[Callback]:
    """Show log lines and progress during the block; yield the callback for events."""
    fill_standard_streams()
    with plain_endings(), _attached() as show:
        yield show


@contextmanager
def _attached() -> Iterator[Callback]:
    harmless = Harmless()
    level = logger.level
    view: View | None = None
    handler: logging.Handler | None = None
    with harmless("the progress bar"):
        view = _view()
    with harmless("the console"):
        handler = _handler(view)

    def show(event: Event) -> None:
        if view is not None:
            with harmless("the progress bar"):
                view(event)
        with harmless("the console"):
            _log(event)

    try:
        yield show if view is not None else without_progress(show)
    finally:
        if view is not None:
            with harmless("the progress bar"):
                view.close()
        if handler is not None:
            logger.removeHandler(handler)
            logger.setLevel(level)
            with harmless("the console"):
                handler.close()


def shows_errors() -> bool:
    """Return whether log lines are written to where uncaught errors are shown anyway."""
    return any(each.get_name() == OWN for each in logger.handlers)


def _view() -> View | None:
    """Return a card in a notebook, and bars if stderr is a terminal; parties in further threads
    show lines only.
    """
    if chosen_format() == "json" or threading.current_thread() is not threading.main_thread():
        return None
    if in_notebook():
        return card()
    if not is_terminal(sys.stderr):
        return None
    from heterofed.reporting.progress import Bars  # rich is slow to load

    return Bars()


def _handler(view: View | None) -> logging.Handler | None:
    """Attach and return a handler that shows log lines, or return None if logging is configured."""
    if logger.hasHandlers():
        return None
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter())
    if view is not None:
        handler = view.log_handler()  # it has the time, or a place, of its own
    # By default a line that cannot be written to a closed stderr raises an error.
    handler.handleError = _forget  # type: ignore[method-assign]
    handler.set_name(OWN)
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    return handler


def _forget(record: logging.LogRecord) -> None:
    """Drop a line that a handler could not write."""


def _log(event: Event) -> None:
    """Log an event if users wait for it."""
    match event:
        case StillWaiting(parties, seconds, compare):
            hint = f"; if they are running, compare {compare}" if compare else ""
            names, extra = ", ".join(parties), facts(event)
            logger.info("waiting for %s (%.0f s)%s", names, seconds, hint, extra=extra)
        case RoundEnded():
            logger.info("%s", round_line(event), extra=facts(event))
        case PartyLost(party, seconds):
            what = "%s is gone: waiting up to %.0f s for it to come back"
            logger.warning(what, party, seconds, extra=facts(event))
        case Resumed():
            mark = shown_mark(event.round, event.batch)
            logger.info("going on from %s", mark, extra=facts(event))
        case PhaseEnded(phase="prepare" | "psi"):
            logger.info("%s: %.1f s", event.phase, event.seconds, extra=facts(event))
        case _:
            pass


def round_line(event: RoundEnded) -> str:
    """Return a line such as `[ROUND 1/5] loss 1.2345  accuracy 0.5612  3.9 s`.

    The columns of all rounds of a task are aligned.
    """
    number = f"{event.round}"
    if event.rounds:
        number = f"{number.rjust(len(str(event.rounds)))}/{event.rounds}"
    shown = [] if event.loss is None else [f"loss {_metric(event.loss)}"]
    for key, value in event.metrics.items():
        if key not in ("round", "loss") or (key == "loss" and event.loss is None):
            shown.append(f"{key} {_metric(value)}")
    return f"[ROUND {number}] " + "  ".join([*shown, seconds_shown(event.seconds)])


def _metric(value: object) -> str:
    """A value with four decimals, where that shows it."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3g}"


def shown_mark(round_number: int, batch: int) -> str:
    """Return a checkpoint's position as text: `the split`, `round 3`, `round 4, batch 200`."""
    if batch:
        return f"round {round_number + 1}, batch {batch}"
    return f"round {round_number}" if round_number else "the split"


def path_shown(path: Path) -> str:
    """Return a path relative to the working directory if it is below that, else as it is."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
