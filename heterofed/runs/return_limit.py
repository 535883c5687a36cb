"""Limits how often a run may start again or roll back, because data are then sent again."""

from __future__ import annotations

from heterofed.errors import RollbackLimitError
from heterofed.runs.run import Run


class ReturnLimit:
    """Counts the rollbacks of one run, over all restarts of this process.

    Args:
        run: the run.
        most: the most rollbacks to one checkpoint, and the most new starts in one launch.
        name: the name of this party in logs.
    """

    def __init__(self, run: Run, most: int, name: str) -> None:
        self._run, self._most, self._name = run, most, name

    def note_beginning(self) -> None:
        """Count the start of a new run in this launch.

        Raises:
            RollbackLimitError: there were too many.
        """
        self._run.begun += 1
        if self._run.begun - 1 > self._most:
            raise self._too_often("has begun anew")

    def note_return(self, where: str) -> None:
        """Count a rollback to a checkpoint.

        Raises:
            RollbackLimitError: there were too many; data that are sent twice reveal more.
        """
        run = self._run
        times = run.opened_ledger().count(run.agreement.run, f"back to {where}")
        if times > self._most:
            raise self._too_often(f"was to go back to {where} once more, after {times - 1} times")

    def _too_often(self, what: str) -> RollbackLimitError:
        return RollbackLimitError(
            f"the run {what}, and max_rollbacks is {self._most} at {self._name}: each time what was"
            " sent before is sent again, which tells more of it. Find out in the logs which party"
            " goes away, and why; then start all parties again with a larger max_rollbacks here, or"
            ' with resume="never" for a new run'
        )
