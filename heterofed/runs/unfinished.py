"""Finds a run that has not ended, and describes it to the other parties."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping

from heterofed.errors import ResumeError
from heterofed.rendezvous.agreement import Agreement, Earlier
from heterofed.runs.checkpoint_store import RunRecord
from heterofed.runs.run import Run

GOODBYE_SECONDS = 15.0
"""The seconds for which a restarted party of a complete run looks for the others."""


def begin(run: Run) -> None:
    """Store a new run, so that it can be resumed after an interruption."""
    agreement = run.agreement
    run.record = RunRecord(
        run=agreement.run,
        secret=agreement.secret,
        seed=run.seed,
        key=secrets.token_bytes(32),
        plan=agreement.plan,
        noise=run.noise,
        purpose=run.purpose,
        lasting=run.lasting,
    )
    run.store.begin(run.record)


def goes_on(run: Run) -> bool:
    """Return whether the parties agreed to resume the unfinished run of this party.

    Raises:
        ResumeError: they did not, although resuming is required.
    """
    if run.record is not None and run.record.run == run.agreement.run:
        return True
    if run.resume == "require":
        raise ResumeError(
            "not all other parties hold the run that waits here; bring back their results folders,"
            ' or start all with resume="auto"'
        )
    return False


def recall(run: Run, seed: int | None, lasting: Mapping[str, str]) -> None:
    """Look for a run of this task and purpose that has not ended.

    Args:
        run: gets its record and its seed.
        seed: as given to the constructor; None where any will do.
        lasting: this party's settings that hold for a whole run.

    Raises:
        ResumeError: there is none though it is required, or it began with other settings.
    """
    run.lasting = dict(lasting)
    record = None if run.resume == "never" else run.store.record()
    if record is None or record.purpose != run.purpose:
        if run.resume == "require":
            raise ResumeError(
                f"there is no unfinished run in {run.result.folder} to go on with; bring back"
                ' its folder (results_dir), or start with resume="auto"'
            )
        return
    if seed not in (None, record.seed):
        raise ResumeError(
            f"the run in {run.result.folder} began with another seed; start with that one, or"
            ' with resume="never"'
        )
    changed = [
        f"{name} was {was} and is {lasting[name]}"
        for name, was in record.lasting.items()
        if lasting.get(name, was) != was
    ]
    if changed:
        raise ResumeError(
            f"the run in {run.result.folder} began otherwise: {'; '.join(changed)}; start with"
            ' what was given then, or all parties with resume="never" for a new run'
        )
    run.record, run.seed, run.noise = record, record.seed, record.noise or run.noise
    run.order = record.plan.seed
    run.complete = run.store.finished() is not None


def earlier(run: Run) -> Earlier | None:
    """Return what this party holds of an unfinished run, for the other parties."""
    if run.record is None:
        return None
    record = run.record
    begun = Agreement(record.plan, record.run, record.secret)
    return Earlier(begun, run.store.marks(), record.split is not None, run.complete)


def patience(run: Run, own: float, wait_for_peers: float = 0.0) -> float:
    """Seconds to wait for the other parties to come online; 0: for ever.

    Args:
        run: waits for as long as it says where a party was lost, and only for goodbyes once it is
            complete.
        own: this party's `join_timeout`.
        wait_for_peers: what the Host was given, where this is the Host.
    """
    if run.complete and not run.waits:
        return min(max(GOODBYE_SECONDS, wait_for_peers), own or math.inf)
    return run.waits or own


def awaited(run: Run) -> tuple[str, ...]:
    """Return the parties of a complete run that have not said goodbye, as far as this party knows.

    At a Collaborator, these are all parties until its own goodbye is sent.
    """
    gone = run.store.finished()
    names = run.record.plan.collaborators if run.record and gone is not None else ()
    return tuple(name for name in names if name not in (gone or ()))
