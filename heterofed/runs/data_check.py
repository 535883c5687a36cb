"""Runs a party's own check of its data before a task, and stores its verdict.

The verdict is advisory. It is stored per task and working directory, and `launch_task` logs it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from heterofed.compute.plain import as_bool
from heterofed.errors import ConfigError
from heterofed.files import heterofed_home, private_folder, read
from heterofed.reporting import console
from heterofed.reporting.results import check_name, write_whole
from heterofed.runs.reserved import refuse_reserved

logger = logging.getLogger("heterofed")


class DataChecker(ABC):
    """Subclass it, define `verify_data`, and call `execute_verification` before the task.

    Args:
        task_id: the id of the task that the data are for.
    """

    def __init__(self, task_id: str) -> None:
        self.task_id = self._heterofed = check_name(task_id, "task_id")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_reserved(cls)

    @abstractmethod
    def verify_data(self) -> bool | tuple[bool, str]:
        """Hook: return whether this party's data are fit for the task, optionally with a reason."""

    def execute_verification(self) -> bool:
        """Run `verify_data`, and store its verdict.

        Raises:
            ConfigError: a worker process has imported this script again and called this method.

        Returns:
            The verdict. It is False if `verify_data` raised an error, whose traceback is in this
            party's log.
        """
        refuse_reimported_main()
        with console.attached():
            passed = _verified(self)
            _keep(self._heterofed, passed)
            logger.info("data check for task %s: %s", self._heterofed, _word(passed))
        return passed


def _verified(checker: DataChecker) -> bool:
    """Return the verdict of a user's check."""
    try:
        answer = checker.verify_data()
    except Exception:
        logger.exception("verify_data raised; the data count as not verified")
        return False
    try:
        return _verdict(answer)
    except TypeError as error:
        logger.error("%s; the data count as not verified", error)
        return False


def mention_verdict(task_id: str) -> None:
    """Log the verdict of the last check for this task in this working directory."""
    try:
        kept = json.loads(read(_place(task_id)))
        passed, when = bool(kept["passed"]), str(kept["when"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # no check was made, or its file is unreadable; the verdict is only advisory
    log = logger.info if passed else logger.warning
    log("the data check for this task %s (%s)", _word(passed), when)


def refuse_reimported_main() -> None:
    """Keep a script without a main guard from running twice.

    Raises:
        ConfigError: a spawned worker is importing the script that started it.
    """
    # True only during that import.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "a worker process imported this script again and ran into its task; put what launches"
            ' it under `if __name__ == "__main__":`, or use num_workers=0'
        )


def _verdict(answer: object) -> bool:
    """Read the result of `verify_data`.

    Raises:
        TypeError: the result does not follow the contract of the hook.
    """
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], str):
        logger.info("verify_data: %s", answer[1])
        answer = answer[0]
    return as_bool(answer, "verify_data")


def _keep(task_id: str, passed: bool) -> None:
    place = _place(task_id)
    private_folder(heterofed_home(), "checks")
    kept = {"passed": passed, "when": time.strftime("%Y-%m-%d %H:%M:%S")}
    write_whole(place, lambda file: file.write(json.dumps(kept).encode()))


def _place(task_id: str) -> Path:
    name = hashlib.sha256(f"{task_id}\0{Path.cwd()}".encode()).hexdigest()[:16]
    return heterofed_home().absolute() / "checks" / f"{name}.json"


def _word(passed: bool) -> str:
    return "passed" if passed else "failed"
