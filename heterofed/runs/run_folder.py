"""Opens the results folder of a resumed or new run."""

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
    """Open the folder of the run that the parties agreed on.

    Args:
        run: the run, whose parties are connected.
        limit: the limit on rollbacks.
        start_over: forgets the models of an earlier attempt of this process, and opens metrics.

    Raises:
        ResumeError: the parties must resume another run than the unfinished one of this party.
        RollbackLimitError: the run has started again, or rolled back, too often.
    """
    if goes_on(run):
        with writing(run.result.folder):
            own_folder(run.result.folder)
        drop_drafts(run.result.folder)
        drop_drafts(run.store.folder)
        if run.agreement.resume is None:
            if run.kept_record.split is not None:  # training may have started
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
