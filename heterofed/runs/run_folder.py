"""The results folder of a run that is kept: of one that goes on, or of a new one."""

from __future__ import annotations

import logging
from collections.abc import Callable

from heterofed.files import drop_drafts, own_folder, writing
from heterofed.reporting.results import fresh_folder
from heterofed.runs.return_limit import ReturnLimit
from heterofed.runs.run import Run
from heterofed.runs.unfinished import begin, goes_on

logger = logging.getLogger("heterofed")


def open_run_folder(run: Run, limit: ReturnLimit, start_over: Callable[[], None]) -> None:
    """Make the folder for what the parties agreed on.

    Args:
        run: which has met its parties.
        limit: of going back.
        start_over: forgets what an earlier attempt of this process has made, and opens metrics.

    Raises:
        ResumeError: another run has to go on than the one that waits here.
        RollbackLimitError: it has begun anew, or gone back, too often.
    """
    if goes_on(run):
        with writing(run.result.folder):
            own_folder(run.result.folder)
        drop_drafts(run.result.folder)
        drop_drafts(run.store.folder)
        if run.agreement.resume is None:
            if run.kept_record.split is not None:  # rounds may have begun
                limit.note_return("its beginning")
            start_over()
        return
    limit.note_beginning()
    if run.store.has_checkpoints and run.resume == "never":
        logger.info("a new run begins; the one that had not ended here is moved aside")
    elif run.store.has_checkpoints:
        logger.warning(
            "a new run begins: not all parties go on with the one that had begun here, which is"
            " moved aside"
        )
    else:
        run.store.clear()
    run.close_ledger()  # of a simulation it goes with the store
    fresh_folder(run.result.folder)
    begin(run)
    start_over()
