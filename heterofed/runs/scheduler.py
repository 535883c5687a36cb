"""Defines the base of all schedulers, with the attributes that hooks of every task may use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from heterofed.errors import ConfigError
from heterofed.metrics import Metrics
from heterofed.reporting.task_result import TaskResult
from heterofed.runs.engine import Engine
from heterofed.runs.reserved import refuse_reserved
from heterofed.runs.settings import Shown


class Scheduler(ABC):
    """Base of all schedulers: one party's part in one kind of task."""

    _heterofed: Engine[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_reserved(cls)

    @abstractmethod
    def launch_task(self, task_id: str) -> Any:
        """Run the task in this process until it ends."""

    @abstractmethod
    def load_local_ids(self) -> Iterable[str]:
        """Hook: return the ids of this party's samples.

        Returns:
            Unique strings, at least one. Their exact code points are compared; nothing is
            normalised.
        """

    def validate_context(self) -> None:
        """Hook: check settings before anything else happens; call `super().validate_context()`.

        Raises:
            ConfigError: a setting of the constructor cannot work.
        """
        self._heterofed.settings.check()

    def get_metrics(self, name: str) -> Metrics:
        """Return the metrics set that `@register_metrics` declared under this name.

        Raises:
            ConfigError: there is no such set, or the task has not begun.
        """
        run = self._heterofed.run
        metrics = run.metrics if run else {}
        if name not in metrics:
            known = ", ".join(sorted(metrics)) or "none (metrics open when the task begins)"
            raise ConfigError(
                f"no metrics set {name!r} is registered (there are: {known}); declare it by"
                " @register_metrics on the hook"
            )
        return metrics[name]

    @Shown
    def result(self) -> TaskResult:
        """The result of the last task so far; reading it before the first task raises
        ConfigError.
        """
        if self._heterofed.run is None:
            raise ConfigError("result: no task was launched yet; call launch_task first")
        return self._heterofed.run.result

    @Shown
    def feature_key(self) -> str:
        """This party's key in the task."""
        return str(self._heterofed.settings.feature_key)

    @Shown
    def name(self) -> str | None:
        """The name of this party in logs and of its results folder, if the constructor was given
        one.
        """
        name: str | None = self._heterofed.settings.name
        return name

    @Shown
    def schedule_timeout(self) -> float:
        """The constructor's argument, in seconds."""
        seconds: float = self._heterofed.settings.schedule_timeout
        return seconds

    @Shown
    def data_channel_timeout(self) -> tuple[float, float]:
        """The constructor's argument, in seconds."""
        both: tuple[float, float] = self._heterofed.settings.data_channel_timeout
        return both

    @Shown
    def task_id(self) -> str | None:
        """The id of the task that runs or ran last; None before the first task."""
        return self._heterofed.run.task_id if self._heterofed.run else None

    @Shown
    def current_round(self) -> int:
        """The round that runs or ended last, counted from 1; 0 before the first round."""
        return self._heterofed.run.round if self._heterofed.run else 0


def engine_of(scheduler: Scheduler) -> Engine[Any]:
    """Return the engine behind a scheduler, for the parts of heterofed that run it."""
    return scheduler._heterofed
