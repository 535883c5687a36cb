"""Runs dry runs and joint predictions, which borrow the hooks of a scheduler."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from heterofed.events import Callback
from heterofed.files import append_json, own_folder, writing
from heterofed.reporting.task_result import TaskResult
from heterofed.runs.engine import Engine
from heterofed.runs.lifecycle import Lifecycle
from heterofed.runs.run import Run
from heterofed.runs.task import Task

_turns: WeakKeyDictionary[Engine[Any], threading.Lock] = WeakKeyDictionary()
_making = threading.Lock()


def _turn_of(engine: Engine[Any]) -> threading.Lock:
    """Return the lock of a scheduler's run, so that threads that share a scheduler take turns."""
    with _making:
        return _turns.setdefault(engine, threading.Lock())


def launch_beside(task: Task, task_id: str, callbacks: Sequence[Callback] = ()) -> TaskResult:
    """Run a task with the hooks of a scheduler, and restore the scheduler's own run."""
    engine = task.engine
    with _turn_of(engine):
        before = engine.run
        try:
            return Lifecycle(task).launch(task_id, "auto", callbacks=callbacks)
        finally:
            engine.run = before


class BesideTask(Task):
    """A task whose results folder is within that of the scheduler."""

    def open_folder(self, run: Run) -> None:
        """Make the folder, and keep its content."""
        with writing(run.result.folder):
            own_folder(run.result.folder)


def log_request(run: Run, **what: object) -> None:
    """Append a line to the log of predictions, with the time, the run and the request, and sync it.

    Raises:
        ResultsError: the line cannot be written.
    """
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = {"time": when, "run": run.result.run, **what}
    path = run.result.folder / "log.jsonl"
    with writing(path):
        append_json(path, line)
