"""Writes `report.html` at the end of a launch. Its errors never end a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from heterofed.reporting.console import path_shown
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")


@contextmanager
def reported(run: Run) -> Iterator[None]:
    """Write the report after the block, even after an error, if the parties were connected.

    A user who stops the task does not have to wait for it, because `heterofed report` can write it
    later.
    """
    try:
        yield
    except Exception:
        _write(run)
        raise
    _write(run)


def _write(run: Run) -> None:
    if run.maybe_agreement is None or not run.result.run:
        return
    with run.harmless("the report"):
        from heterofed.report.render import write_report  # here: it loads what shows pages

        run.result.report = write_report(run.result.folder)
        logger.info("report: %s", path_shown(run.result.report))
