"""Weights & Biases: a run of the task as a run of a project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from heterofed.events import TaskBegan
from heterofed.trackers.base import ScalarTracker, library


class WeightsAndBiases(ScalarTracker):
    """Logs each round's numbers to Weights & Biases. Needs the extra `wandb`.

    Whatever is logged leaves this machine for the service, unless `mode` is "offline": curves,
    the names of task and parties, and what `wandb` itself tells of the machine.

    Args:
        project: the project's name.
        mode: "online", or "offline": kept in `wandb/` of the results folder until `wandb sync`.
        options: more arguments of `wandb.init`, such as `entity`.

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
        """Open a run; one that goes on has the same id."""
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
