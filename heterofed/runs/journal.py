"""`events.jsonl` of a launch: a diagnostic, so it never ends a run."""

from __future__ import annotations

from heterofed.events import Callback, Event
from heterofed.reporting.journal import Journal
from heterofed.reporting.journal_records import FILE
from heterofed.runs.run import Run


def journal_kept(run: Run) -> Callback:
    """Return the callback that keeps the journal of a run.

    Where the file cannot be written, that is logged once, and the run goes on.
    """
    journal = Journal(run.account)

    def note(event: Event) -> None:
        with run.harmless(FILE):
            journal(event)

    return note
