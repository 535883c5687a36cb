"""Defines the engine of a scheduler of split training, which its user does not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from heterofed.compute.workers.exchange import Exchange
from heterofed.hetero_nn.settings import HalfSettings
from heterofed.runs.engine import Engine
from heterofed.runs.task import Task

S = TypeVar("S", bound=HalfSettings)


class HalfEngine(Engine[S]):
    """The engine of a scheduler of split training: its settings, its run, and its tasks.

    Attributes:
        exchange: the connections to further processes of this party during a launch; None if it has
            one process.

    Args:
        settings: the settings from the constructor.
        training: makes the task that trains.
        dry_run: makes the task that tries one batch.
    """

    def __init__(
        self, settings: S, training: Callable[[Any], Task], dry_run: Callable[[Any], Task]
    ) -> None:
        super().__init__(settings)
        self.training, self.dry_run = training, dry_run
        self.exchange: Exchange | None = None

    def deadline(self) -> float:
        """Return the longest time in seconds to wait for a further process; 0 sets no limit."""
        agreement = self.run.maybe_agreement if self.run is not None else None
        plain: float = getattr(self.settings, "calculation_timeout", 300.0)
        return agreement.plan.calculation_timeout if agreement else plain
