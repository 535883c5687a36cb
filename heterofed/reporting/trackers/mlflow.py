"""Logs a run of a task to MLflow as a run of an experiment."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from heterofed.events import TaskBegan
from heterofed.reporting.trackers.base import ScalarTracker, library

_UNFIT = re.compile(r"[^\w\-. /]")

RUN_TAG, PARTY_TAG = "heterofed.run", "heterofed.party"


class MLflow(ScalarTracker):
    """Logs each round's numbers to MLflow. Needs the extra `mlflow`.

    A run that is resumed after an interruption continues the same MLflow run. Rounds that are
    trained again are logged again; MLflow shows the values in the order of their times.

    Args:
        experiment: the experiment's name; it is created if it does not exist.
        tracking_uri: the server or folder; None uses MLflow's own settings (`MLFLOW_TRACKING_URI`).

    Raises:
        ConfigError: MLflow is not installed.
    """

    def __init__(self, experiment: str = "heterofed", tracking_uri: str | None = None) -> None:
        super().__init__()
        client = library("mlflow.tracking", "mlflow").MlflowClient
        self._client: Any = client(tracking_uri=tracking_uri)
        self._experiment = experiment
        self._run_id = ""

    def begin(self, task: TaskBegan) -> None:
        """Find the MLflow run of an earlier launch, or create one."""
        found = self._client.get_experiment_by_name(self._experiment)
        where = found.experiment_id if found else self._client.create_experiment(self._experiment)
        same = f"tags.`{RUN_TAG}` = '{task.run}' and tags.`{PARTY_TAG}` = '{task.party}'"
        earlier = self._client.search_runs([where], filter_string=same, max_results=1)
        if earlier:
            self._run_id = earlier[0].info.run_id
            self._client.set_terminated(self._run_id, "RUNNING")
            return
        tags = {
            RUN_TAG: task.run,
            PARTY_TAG: task.party,
            "heterofed.task": task.task_id,
            "heterofed.host": task.host,
            "heterofed.collaborators": ", ".join(task.collaborators),
        }
        name = f"{task.task_id} at {task.party}"
        self._run_id = self._client.create_run(where, tags=tags, run_name=name).info.run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers of a round, in one request."""
        metric = library("mlflow.entities", "mlflow").Metric
        now = int(time.time() * 1000)
        logged = [metric(_UNFIT.sub("_", name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=logged)

    def end(self, error: str | None) -> None:
        """End the run, as finished or failed."""
        if error is not None:
            self._client.set_tag(self._run_id, "heterofed.error", error)
        self._client.set_terminated(self._run_id, "FAILED" if error else "FINISHED")
