"""Errands beside a task: rehearsals and joint predictions, which borrow a scheduler's hooks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakKeyDictionary

from heterofed.errors import TaskFailed
from heterofed.files import append, own_folder, writing
from heterofed.hetero_nn.training_scheduler import TrainingScheduler
from heterofed.reporting.results import TaskResult
from heterofed.runs.hook_calls import check_hooks
from heterofed.runs.lifecycle import Scheduler
from heterofed.runs.run import Run

_turns: WeakKeyDictionary[Scheduler, threading.Lock] = WeakKeyDictionary()
_making = threading.Lock()


def _turn_of(owner: Scheduler) -> threading.Lock:
    """Held while an errand borrows a scheduler's run: threads that share one take turns."""
    with _making:
        return _turns.setdefault(owner, threading.Lock())


class Errand(Scheduler):
    """The lifecycle of a task around the hooks of another scheduler.

    Args:
        owner: whose hooks and settings they are; while the errand runs, its run is theirs.
    """

    FOLDER: str
    """Where results go, within the owner's results folder."""

    _heterofed_reports = False  # the report is of the run that trained

    def __init__(self, owner: TrainingScheduler) -> None:
        super().__init__()
        self._owner = owner
        self._heterofed_settings = owner._heterofed_settings

    def load_local_ids(self) -> Iterable[str]:
        return self._owner.load_local_ids()

    def _heterofed_check_hooks(self) -> None:
        check_hooks(self._owner)

    def validate_context(self) -> None:
        """What cannot work shows here, before anybody is waited for."""
        self._owner._heterofed_run = self._heterofed_run
        self._owner.validate_context()

    def _launch_beside(self, task_id: str) -> TaskResult:
        """Run it, and give the owner its own run back."""
        with _turn_of(self._owner):
            before = self._owner._heterofed_run
            try:
                return self._heterofed_launch(task_id, "auto")
            finally:
                self._owner._heterofed_run = before

    def _heterofed_results_folder(self, task_id: str) -> Path:
        return super()._heterofed_results_folder(task_id) / self.FOLDER

    def _heterofed_open_folder(self, run: Run) -> None:
        with writing(run.result.folder):
            own_folder(run.result.folder)

    def _heterofed_waits_for(self, run: Run, error: TaskFailed) -> bool:  # noqa: ARG002
        return False  # nothing is lost that could not be asked for again


def log_request(run: Run, **what: object) -> None:
    """Append a line to the log of predictions: when, of which run, and what; synced.

    Raises:
        ResultsError: it cannot be written.
    """
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = {"time": when, "run": run.result.run, **what}
    path = run.result.folder / "log.jsonl"
    with writing(path):
        append(path, json.dumps(line).encode() + b"\n")
