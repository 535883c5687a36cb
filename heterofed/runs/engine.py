"""Holds heterofed's part of a scheduler in one object, so that users may use all other names."""

from __future__ import annotations

from typing import Generic, TypeVar

from heterofed.runs.run import Run
from heterofed.runs.settings import Settings

S = TypeVar("S", bound=Settings)


class Engine(Generic[S]):
    """The settings of a scheduler, and the run that it is in or was in last.

    Attributes:
        settings: the arguments of the constructor.
        run: the run of the current or last task; None before the first. While a prediction or a dry
            run borrows the scheduler's hooks, it is the run of that task.
    """

    def __init__(self, settings: S) -> None:
        self.settings = settings
        self.run: Run | None = None
