"""Holds heterofed's part of a scheduler in one object, so that users may use all other names."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from heterofed.errors import ConfigError
from heterofed.runs.run import Run
from heterofed.runs.settings import Settings

S = TypeVar("S", bound=Settings)


class Engine(Generic[S]):
    """The settings of a scheduler, and the run that it is in or was in last.

    Attributes:
        settings: the arguments of the constructor.
        run: the run of the current or last task; None before the first. While a prediction or a dry
            run borrows the scheduler's hooks, it is the run of that task.
        order_of: the name from which the order of rows is drawn if there is a seed; None for the
            task id. A simulation under a task id that was made up repeats a run by it.
    """

    def __init__(self, settings: S) -> None:
        self.settings = settings
        self.run: Run | None = None
        self.order_of: str | None = None

    def made(self, name: str) -> Any:
        """Return a model or optimizer of the run, which is made on first use.

        Raises:
            ConfigError: no run has begun.
        """
        models = self.run.models if self.run is not None else None
        if models is None:
            raise ConfigError(
                f"{name} is made when a task is launched, and there is none yet; use it in a hook"
            )
        return models.made(name)

    def mark_best(self, hook: str) -> None:
        """Mark the current round as the best; `hook` names where users do so.

        Raises:
            ConfigError: no round has begun.
        """
        if self.run is None or self.run.round == 0:
            raise ConfigError(f"mark_best: there is no round yet; call it in {hook}")
        self.run.state.is_best = True
