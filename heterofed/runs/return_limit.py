"""How often a run may begin anew or go back: each time what was sent before is sent again."""

from __future__ import annotations

from heterofed.errors import RollbackLimitError
from heterofed.runs.run import Run


class ReturnLimit:
    """Counts how often one run goes back, over all restarts of this process.

    Args:
        run: the run.
        most: returns to one checkpoint, and new beginnings of one launch.
        name: what logs call this party.
    """

    def __init__(self, run: Run, most: int, name: str) -> None:
        self._run, self._most, self._name = run, most, name

    def note_beginning(self) -> None:
        """Count a beginning of a new run in this launch.

        Raises:
            RollbackLimitError: there were too many.
        """
        self._run.begun += 1
        if self._run.begun - 1 > self._most:
            raise self._too_often("has begun anew")

    def note_return(self, where: str) -> None:
        """Count that the run goes back to a checkpoint.

        Raises:
            RollbackLimitError: it has done so too often: what is sent twice tells more.
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
