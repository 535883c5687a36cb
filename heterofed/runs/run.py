"""One run of a task at one party: what exists between `launch_task` and its return."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from heterofed.errors import LocalProtocolError, ResumeError
from heterofed.files import heterofed_home, own_folder, private_folder
from heterofed.messaging.party import Party
from heterofed.metrics import Metrics
from heterofed.privacy.ledger import ReleaseLedger
from heterofed.privacy.passes import Pass
from heterofed.protocol.plan import Plan
from heterofed.rendezvous.agreement import Agreement, Earlier
from heterofed.reporting.costs import Account
from heterofed.reporting.diagnostics import Harmless
from heterofed.reporting.results import TaskResult
from heterofed.runs.checkpoint_store import CheckpointStore, RunRecord

Resume = Literal["auto", "never", "require"]
"""What to do with a run that has not ended: go on if all parties can, never, or nothing else."""


FAREWELL_SECONDS = 15.0
"""How long a party that was started again, of a run that is complete, looks for the others."""


@dataclass(slots=True)
class Run:
    """One run of a task: what exists between `launch_task` and its return.

    `seed` starts this party's random streams and stays here: whoever has it has the weights,
    dropout masks and noise, and can work back from features to raw rows.

    Attributes:
        store: where the run is kept until it has ended.
        record: this run in the store, where the task is of a kind that is kept.
        ended: the run that ended last in this results folder.
        round, batch: the round that runs or ended last, and how many of its batches were trained
            before its latest checkpoint; 0 once it has ended.
        complete: whether all parties hold the checkpoint after the last round.
        noise: 32 bytes that this party's noise is drawn from; they stay here, too.
        order: what its order of rows is drawn from, where it is the Host's.
        futile: how often a party was lost since the last checkpoint.
        begun: runs that were begun since the launch.
        simulated: whether all parties are in one process, so that nothing is given away.
        releases: the count of what has left, once it was asked for; see `ledger_of`.
        passing: what the feature hook was asked for that yields batches now, or did last.
        tell: writes what has left so far into the results; nothing where there is nothing to tell.
        mask_secrets: what this party shares with each other Collaborator since they met last,
            where the Host gets only the sum of their features.
        waits: seconds to wait for a party that was lost; 0 before one was.
        meeting: where the parties meet, in words; empty before they were looked for.
        terms: what the task file says, in its canonical form; empty without a task file.
        secured: whether everybody there proves by a key who they are.
        defences: what hides something on its way out, by what it hides, by the name of its class.
        ledger: folder in which it is counted, over all runs, what others got of this party.
        predicts: whether it predicts with what was trained, and trains nothing.
        state: what its loops hold, as they do; made anew where the run begins anew.
        lasting: the same, for what must not be forgotten while this process runs.
        account_of_ids: under which name signed ids are counted there; empty: the task's.
        harmless: runs what only measures or shows.
    """

    task_id: str
    seed: int | bytes
    result: TaskResult
    store: CheckpointStore
    resume: Resume
    account: Account
    metrics: dict[str, Metrics] = field(default_factory=dict)
    party: Party | None = None
    agreement: Agreement | None = None
    failed_hook: str | None = None
    record: RunRecord | None = None
    ended: bytes | None = None
    complete: bool = False
    waits: float = 0.0
    meeting: str = ""
    terms: bytes = b""
    secured: bool = False
    defences: dict[str, str] = field(default_factory=dict)
    futile: int = 0
    begun: int = 0
    simulated: bool = False
    releases: ReleaseLedger | None = None
    passing: Pass | None = None
    tell: Callable[[], None] = lambda: None
    mask_secrets: dict[str, bytes] = field(default_factory=dict)
    ledger: Path | None = None
    predicts: bool = False
    account_of_ids: str = ""
    noise: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    harmless: Harmless = field(default_factory=Harmless)
    order: int = 0
    round: int = 0
    batch: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    lasting: dict[str, Any] = field(default_factory=dict)


def drawn_seed() -> bytes:
    """A seed of a party's own that nobody can try out."""
    return secrets.token_bytes(32)


def drawn_order(task_id: str, seed: int | None) -> int:
    """What the Host draws the order of rows from, and tells everybody: nothing of its own seed.

    Args:
        task_id: of the task.
        seed: as given to its constructor. Where it is, so that all can be drawn again, the order
            is the task's.
    """
    if seed is None:
        return secrets.randbits(63)
    return int.from_bytes(sha256(b"order of " + task_id.encode()).digest()[:8], "big") >> 1


def agreement_of(run: Run) -> Agreement:
    """What a run's parties agreed on when they met last."""
    if run.agreement is None:
        raise LocalProtocolError("the plan was asked for before the parties met")
    return run.agreement


def plan_of(run: Run) -> Plan:
    """The plan of a run that has met its parties."""
    return agreement_of(run).plan


def party_of(run: Run) -> Party:
    """The party of a run that has met the others."""
    if run.party is None:
        raise LocalProtocolError("the party was asked for before the parties met")
    return run.party


def ledger_of(run: Run) -> ReleaseLedger:
    """Where it is counted, over all runs of the task, what has left this party.

    A simulation counts for its run alone: nobody else gets anything of it.

    Raises:
        LedgerError: it cannot be read or written.
    """
    if run.releases is None:
        if run.simulated and run.record is not None:
            folder = own_folder(run.store.folder / "releases")
        else:
            folder = private_folder(run.ledger or heterofed_home(), "releases")
        run.releases = ReleaseLedger(folder, run.task_id, run.result.party)
    return run.releases


def close_ledger(run: Run) -> None:
    """Let go of the ledger, until it is asked for again."""
    if run.releases is not None:
        run.releases.close()
        run.releases = None


def begin(run: Run) -> None:
    """Keep a new run, so that it can go on after it was interrupted."""
    agreement = agreement_of(run)
    run.record = RunRecord(
        run=agreement.run,
        secret=agreement.secret,
        seed=run.seed,
        key=secrets.token_bytes(32),
        plan=agreement.plan,
        noise=run.noise,
    )
    run.store.begin(run.record)


def goes_on(run: Run) -> bool:
    """Whether what the parties agreed on is the run that waits here.

    Raises:
        ResumeError: it is not, though that is required.
    """
    if run.record is not None and run.record.run == agreement_of(run).run:
        return True
    if run.resume == "require":
        raise ResumeError(
            "not all other parties hold the run that waits here; bring back their results folders,"
            ' or start all with resume="auto"'
        )
    return False


def recall(run: Run, seed: int | None) -> None:
    """Look for a run of this task that has not ended.

    Args:
        run: gets its record and its seed.
        seed: as given to the constructor; None where any will do.

    Raises:
        ResumeError: there is none though it is required, or it began with another seed.
    """
    record = None if run.resume == "never" else run.store.record()
    if record is None:
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
    run.record, run.seed, run.noise = record, record.seed, record.noise or run.noise
    run.order = record.plan.seed
    run.complete = run.store.finished() is not None


def earlier(run: Run) -> Earlier | None:
    """What this party holds of a run that has not ended, to be told to the others."""
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
        return min(max(FAREWELL_SECONDS, wait_for_peers), own or math.inf)
    return run.waits or own


def awaited(run: Run) -> tuple[str, ...]:
    """Once all hold the last checkpoint: who has not said goodbye, as far as this party knows. At a
    Collaborator all, until its own goodbye has left.
    """
    gone = run.store.finished()
    names = run.record.plan.collaborators if run.record and gone is not None else ()
    return tuple(name for name in names if name not in (gone or ()))
