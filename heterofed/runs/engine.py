"""What is behind a scheduler: one object, so that a user's class may use all other names."""

from __future__ import annotations

from typing import Generic, TypeVar

from heterofed.runs.run import Run
from heterofed.runs.settings import Settings

S = TypeVar("S", bound=Settings)


class Engine(Generic[S]):
    """The settings of a scheduler, and the run that it is in or was in last.

    Attributes:
        settings: what the constructor was given.
        run: of the task that runs, or ran last; None before the first. While a prediction or a
            dry run borrows the scheduler's hooks, it is theirs.
    """

    def __init__(self, settings: S) -> None:
        self.settings = settings
        self.run: Run | None = None
