"""Shows a run in a notebook: one card that is drawn again in its place, instead of lines and bars.

The card has the phase with the time left, loss and metrics by round as curves, warnings, and the
log lines of all parties of this process, folded. So a long run does not flood the output of its
cell. IPython is there wherever this is used, and it is imported nowhere else.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from heterofed.events import (
    Event,
    PartyLost,
    PhaseBegan,
    PhaseEnded,
    Progressed,
    RoundEnded,
    StillWaiting,
    TaskBegan,
    TaskEnded,
)
from heterofed.metrics import as_float
from heterofed.reporting import markup
from heterofed.reporting.units import seconds_shown, value_shown

DRAWN_EVERY = 0.5
"""The least seconds between two drawings of a card."""
MOST_LINES, MOST_WARNINGS, MOST_CURVES, MOST_SINGLE = 400, 8, 8, 20

logger = logging.getLogger("heterofed")


def in_notebook() -> bool:
    """Return whether this process is a kernel whose front end draws HTML."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def display_in_place() -> Callable[[str], None]:
    """Return a function that shows HTML below the cell, and then again in the same place."""
    from IPython.display import HTML, display

    handle: list[Any] = []

    def draw(shown: str) -> None:
        if handle:
            handle[0].update(HTML(shown))
        else:
            handle.append(display(HTML(shown), display_id=True))

    return draw


class Card:
    """The card of a run; a callback for its events.

    Args:
        draw: shows HTML in the place of what it showed before.
        clock: a clock in seconds that only goes forward.
    """

    def __init__(
        self, draw: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._draw, self._clock = draw, clock
        self._drawn_at = -math.inf
        self._whose, self._state = "", "connecting"
        self._phase: PhaseBegan | None = None
        self._phase_began = 0.0
        self._done, self._total = 0, 0
        self._took: dict[str, int] = {}
        self._round = self._rounds = 0
        self._courses: dict[str, list[markup.Point]] = {}
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._warnings: dict[str, None] = {}

    def log_handler(self) -> logging.Handler:
        """Return a log handler that puts its lines into the card."""
        return CardLines(self)

    def note(self, line: str, *, is_warning: bool) -> None:
        """Take a log line, from any thread; it is shown with the next drawing."""
        self._lines.extend(line.splitlines())
        if is_warning and len(self._warnings) < MOST_WARNINGS:
            self._warnings[line] = None

    def __call__(self, event: Event) -> None:
        """Take an event, and draw the card again if it was not drawn just now."""
        self._take(event)
        if self._clock() - self._drawn_at >= DRAWN_EVERY:
            self._show()

    def close(self) -> None:
        """Draw the card as it stays."""
        self._phase = None
        if self._drawn_at > -math.inf:
            self._show()

    def _take(self, event: Event) -> None:
        match event:
            case TaskBegan():
                self._whose = f"task {event.task_id}, {event.party}"
                self._state = ""
            case PhaseBegan():
                self._phase, self._phase_began = event, self._clock()
                self._done, self._total = 0, event.total or self._took.get(event.phase, 0)
            case Progressed(done, total):
                self._done, self._total = done, total or self._total
            case PhaseEnded():
                self._took[event.phase] = self._done
                self._phase = None
            case StillWaiting(parties):
                self._state = f"waiting for {', '.join(parties)}"
            case PartyLost(party):
                self._state = f"{party} is gone; waiting for it to come back"
            case RoundEnded():
                self._end_round(event)
            case TaskEnded(error):
                self._state = f"ended early: {error}" if error else "done"
                self._phase = None
            case _:
                pass

    def _end_round(self, event: RoundEnded) -> None:
        self._round, self._rounds, self._state = event.round, event.rounds, ""
        for name, given in {"loss": event.loss, **event.metrics}.items():
            value = as_float(given)
            if name != "round" and value is not None and math.isfinite(value):
                points = self._courses.setdefault(name, [])
                while points and points[-1][0] >= event.round:  # the run went back
                    points.pop()
                points.append((float(event.round), value))

    def _show(self) -> None:
        self._drawn_at = self._clock()
        self._draw(self.html())

    def html(self) -> str:
        """Return the card as it is now."""
        return markup.card(
            self._whose or "heterofed",
            self._state or self._rounds_shown(),
            self._bar() if self._phase is not None else "",
            *self._numbers(),
            markup.listed(list(self._warnings)),
            markup.folded("Log", markup.lines(list(self._lines))) if self._lines else "",
        )

    def _numbers(self) -> list[str]:
        """Metrics of several rounds as curves, and those of one round as text."""
        several = [each for each in self._courses.items() if len(each[1]) > 1][:MOST_CURVES]
        single = [
            f"{name} {value_shown(points[0][1])}"
            for name, points in self._courses.items()
            if len(points) == 1
        ]
        curves = [markup.curve(*each) for each in several]
        return [*curves, markup.soft(", ".join(single[:MOST_SINGLE]))]

    def _rounds_shown(self) -> str:
        of = f" of {self._rounds}" if self._rounds else ""
        return f"round {self._round}{of}" if self._round else ""

    def _bar(self) -> str:
        """The phase that goes on, with the time left where the amount of work is known."""
        assert self._phase is not None  # noqa: S101 - the caller has looked
        phase, share = self._phase, None
        label = f"{phase.phase} {phase.round}" if phase.round else phase.phase
        if self._total and self._done:
            share = min(1.0, self._done / self._total)
            left = (self._clock() - self._phase_began) * (1 - share) / share
            label += f": {self._done:,} of {self._total:,} {phase.unit}, {seconds_shown(left)} left"
        return markup.bar(share, label)


class CardLines(logging.Handler):
    """Puts log records into a card."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def emit(self, record: logging.LogRecord) -> None:
        """Put one into the card; what it raises is the handler's `handleError`'s."""
        try:
            self.card.note(self.format(record), is_warning=record.levelno >= logging.WARNING)
        except Exception:
            self.handleError(record)


def card() -> Card:
    """Return the card of the simulation that is under way, or else a new one."""
    for each in logger.handlers:
        if isinstance(each, CardLines):
            return each.card
    return Card(display_in_place())
