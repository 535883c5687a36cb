"""Defines the base of all trackers, which pass on numbers after the task is known.

A tracker is a callback like any other (`callbacks=[...]`). If it raises an error, this is logged
once, and the tracker is not called again. It never ends a run.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import ModuleType

from heterofed.errors import needing
from heterofed.events import Event, PhaseEnded, Resumed, RoundEnded, TaskBegan, TaskEnded


class Tracker(ABC):
    """A callback that passes a run's numbers to an experiment tracker.

    Events that come before the parties are connected are stored until `TaskBegan` names the task.
    If it never comes, they are dropped.
    """

    def __init__(self) -> None:
        self._early: list[Event] = []
        self._task: TaskBegan | None = None

    def __call__(self, event: Event) -> None:
        """Take one event of a task."""
        if isinstance(event, TaskBegan):
            self._begin(event)
        elif self._task is not None:
            self._pass_on(event)
        elif isinstance(event, TaskEnded):
            self._early.clear()
        else:
            self._early.append(event)

    def _begin(self, event: TaskBegan) -> None:
        if self._task is None or self._task.run != event.run:
            self._task = event
            self.begin(event)
        waiting, self._early = self._early, []
        for each in waiting:
            self._pass_on(each)

    def _pass_on(self, event: Event) -> None:
        if isinstance(event, TaskEnded):
            self._task = None
            self.end(event.error)
        else:
            self.take(event)

    @abstractmethod
    def begin(self, task: TaskBegan) -> None:
        """Open the destination of the run; `task.run` identifies a run that is resumed."""

    @abstractmethod
    def take(self, event: Event) -> None:
        """Process an event of the task that has begun."""

    @abstractmethod
    def end(self, error: str | None) -> None:
        """Close the destination; `error` is the class of the error that ended the task early."""


class ScalarTracker(Tracker):
    """The base of trackers that take numbers by name and round."""

    def __init__(self) -> None:
        super().__init__()
        self._totals = Totals()

    def take(self, event: Event) -> None:
        """Add up the costs of phases, and pass on the numbers of a round."""
        if isinstance(event, Resumed):
            self.rewind(event.round)
        elif isinstance(event, PhaseEnded):
            self._totals.add(event)
        elif isinstance(event, RoundEnded):
            self.scalars({**scalars_of(event), **self._totals.scalars()}, event.round)

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write the numbers of round `step`."""

    def rewind(self, step: int) -> None:
        """Note that rounds after `step` will be trained again. By default their numbers stay."""


class Totals:
    """The seconds and bytes of a launch so far, by phase."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._sent = self._received = 0
        self._waits: dict[str, float] = {}

    def add(self, event: PhaseEnded) -> None:
        """Count a phase that has ended."""
        self._seconds[event.phase] = self._seconds.get(event.phase, 0.0) + event.seconds
        self._sent += event.bytes_sent
        self._received += event.bytes_received
        for party, seconds in event.waits.items():
            self._waits[party] = self._waits.get(party, 0.0) + seconds

    def scalars(self) -> dict[str, float]:
        """Return the seconds and bytes by name."""
        return {
            **{f"seconds/{phase}": value for phase, value in self._seconds.items()},
            **{f"waited_for/{party}": value for party, value in self._waits.items()},
            "bytes/sent": float(self._sent),
            "bytes/received": float(self._received),
        }


def scalars_of(event: RoundEnded) -> dict[str, float]:
    """Return the numbers of a round by name: its metrics, its loss and its seconds."""
    values = {name: float(value) for name, value in event.metrics.items() if name != "round"}
    if event.loss is not None:
        values["loss"] = event.loss
    return {**values, "round_seconds": event.seconds}


def library(name: str, extra: str) -> ModuleType:
    """Import the library of a tracker.

    Raises:
        ConfigError: the library is not installed. The message names the extra.
    """
    with needing(extra, "this tracker"):
        return importlib.import_module(name)
