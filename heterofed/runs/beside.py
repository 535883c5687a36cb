"""Tasks beside the one of a scheduler, which borrow its hooks: dry runs and joint predictions."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from heterofed.events import Callback
from heterofed.files import append_json, own_folder, writing
from heterofed.reporting.results import TaskResult
from heterofed.runs.engine import Engine
from heterofed.runs.lifecycle import Lifecycle
from heterofed.runs.run import Run
from heterofed.runs.task import Task

_turns: WeakKeyDictionary[Engine[Any], threading.Lock] = WeakKeyDictionary()
_making = threading.Lock()


def _turn_of(engine: Engine[Any]) -> threading.Lock:
    """Held while a scheduler's run is borrowed: threads that share a scheduler take turns."""
    with _making:
        return _turns.setdefault(engine, threading.Lock())


def launch_beside(task: Task, task_id: str, callbacks: Sequence[Callback] = ()) -> TaskResult:
    """Run a task with the hooks of a scheduler, and give it its own run back."""
    engine = task.engine
    with _turn_of(engine):
        before = engine.run
        try:
            return Lifecycle(task).launch(task_id, "auto", callbacks=callbacks)
        finally:
            engine.run = before


class BesideTask(Task):
    """A task whose results lie in a folder within those of the scheduler's own."""

    def open_folder(self, run: Run) -> None:
        """Make the folder; what lies there stays."""
        with writing(run.result.folder):
            own_folder(run.result.folder)


def log_request(run: Run, **what: object) -> None:
    """Append a line to the log of predictions: when, of which run, and what; synced.

    Raises:
        ResultsError: it cannot be written.
    """
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = {"time": when, "run": run.result.run, **what}
    path = run.result.folder / "log.jsonl"
    with writing(path):
        append_json(path, line)
