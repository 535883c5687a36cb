"""Logs a run of a task to Weights & Biases as a run of a project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from heterofed.events import TaskBegan
from heterofed.reporting.trackers.base import ScalarTracker, library


class WeightsAndBiases(ScalarTracker):
    """Logs each round's numbers to Weights & Biases. Needs the extra `wandb`.

    Unless `mode` is "offline", everything that is logged is sent to the service: curves, the names
    of the task and its parties, and what `wandb` itself records about the machine.

    Args:
        project: the project's name.
        mode: "online"; or "offline", which writes to `wandb/` in the results folder until `wandb
            sync`.
        options: further arguments of `wandb.init`, such as `entity`.

    Raises:
        ConfigError: wandb is not installed.
    """

    def __init__(
        self,
        project: str = "heterofed",
        mode: Literal["online", "offline"] = "online",
        **options: Any,
    ) -> None:
        super().__init__()
        library("wandb", "wandb")
        self._options = {"project": project, "mode": mode, **options}
        self._run: Any = None

    def begin(self, task: TaskBegan) -> None:
        """Open a run; a resumed run has the same id."""
        self._run = library("wandb", "wandb").init(
            **{
                "id": f"{task.run[:16]}-{task.party}".replace(" ", "-"),
                "name": f"{task.task_id} at {task.party}",
                "group": task.task_id,
                "job_type": "host" if task.party == task.host else "collaborator",
                "resume": "allow",
                "dir": str(task.folder),
                "config": {"host": task.host, "collaborators": list(task.collaborators)},
                **self._options,
            }
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers of a round."""
        self._run.log(dict(values), step=step)

    def end(self, error: str | None) -> None:
        """Close the run, as finished or failed."""
        if error is not None:
            self._run.summary["error"] = error
        self._run.finish(exit_code=1 if error else 0)
