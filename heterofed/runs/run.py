"""One run of a task at one party: what exists between `launch_task` and its return."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from heterofed.errors import LocalProtocolError
from heterofed.files import heterofed_home, own_folder, private_folder
from heterofed.messaging.party import Party
from heterofed.metrics import Metrics
from heterofed.privacy.ledger import ReleaseLedger
from heterofed.privacy.passes import Pass
from heterofed.protocol.plan import Plan
from heterofed.rendezvous.agreement import Agreement
from heterofed.reporting.costs import Account
from heterofed.reporting.diagnostics import Harmless
from heterofed.reporting.results import TaskResult
from heterofed.runs.checkpoint_store import CheckpointStore, RunRecord
from heterofed.runs.state import RunState

if TYPE_CHECKING:
    from heterofed.privacy.repeats import Repeats
    from heterofed.runs.models import ModelRegistry

Resume = Literal["auto", "never", "require"]
"""What to do with a run that has not ended: go on if all parties can, never, or nothing else."""


@dataclass(slots=True)
class Run:
    """One run of a task: what exists between `launch_task` and its return.

    `seed` starts this party's random streams and stays here: whoever has it has the weights,
    dropout masks and noise, and can work back from features to raw rows.

    Attributes:
        store: where the run is kept until it has ended.
        maybe_party, maybe_agreement: this party's end of the task, and what all agreed on; None
            before the parties met. `party`, `agreement` and `plan` are the same once they have.
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
        releases: the count of what has left, once it was asked for; see `opened_ledger`.
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
        models: the models and optimizers of this run, where the task is of a kind that has some.
        around_hooks: what hooks of this run are called within.
        state: what the run holds since it began; made anew where it begins anew.
        repeats: gradients as they were sent, which are not to be hidden otherwise when they are
            sent again; kept while this process runs.
        id_key: by which key rows are being matched, from 0, where there are several.
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
    maybe_party: Party | None = None
    maybe_agreement: Agreement | None = None
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
    id_key: int = 0
    account_of_ids: str = ""
    noise: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    harmless: Harmless = field(default_factory=Harmless)
    order: int = 0
    round: int = 0
    batch: int = 0
    models: ModelRegistry | None = None
    around_hooks: Callable[[], AbstractContextManager[None]] = nullcontext
    state: RunState = field(default_factory=RunState)
    repeats: Repeats | None = None

    @property
    def party(self) -> Party:
        """This party's end of the task.

        Raises:
            LocalProtocolError: the parties have not met.
        """
        if self.maybe_party is None:
            raise LocalProtocolError("the party was asked for before the parties met")
        return self.maybe_party

    @property
    def agreement(self) -> Agreement:
        """What the parties agreed on when they met last.

        Raises:
            LocalProtocolError: the parties have not met.
        """
        if self.maybe_agreement is None:
            raise LocalProtocolError("the plan was asked for before the parties met")
        return self.maybe_agreement

    @property
    def plan(self) -> Plan:
        """The plan of the parties; raises as `agreement` does."""
        return self.agreement.plan

    @property
    def kept_record(self) -> RunRecord:
        """This run in the store.

        Raises:
            LocalProtocolError: the run has not begun.
        """
        if self.record is None:
            raise LocalProtocolError("the record of the run was asked for before it began")
        return self.record

    def open_metrics(self, name: str, keys: Sequence[str]) -> Metrics:
        """Open a metrics set in the results folder; the one of that name before it is left."""
        self.metrics[name] = Metrics(name, keys, self.result.folder, lambda: self.round)
        return self.metrics[name]

    def open_all_metrics(self, registered: Mapping[str, Sequence[str]]) -> None:
        """Open the metrics sets that the user's class registered."""
        for name, keys in registered.items():
            self.open_metrics(name, keys)

    def opened_ledger(self) -> ReleaseLedger:
        """Where it is counted, over all runs of the task, what has left this party.

        A simulation counts for its run alone: nobody else gets anything of it.

        Raises:
            LedgerError: it cannot be read or written.
        """
        if self.releases is None:
            if self.simulated and self.record is not None:
                folder = own_folder(self.store.folder / "releases")
            else:
                folder = private_folder(self.ledger or heterofed_home(), "releases")
            self.releases = ReleaseLedger(folder, self.task_id, self.result.party)
        return self.releases

    def close_ledger(self) -> None:
        """Let go of the ledger, until it is asked for again."""
        if self.releases is not None:
            self.releases.close()
            self.releases = None


def new_run(task_id: str, party: str, folder: Path, resume: Resume, seed: int | None) -> Run:
    """A run that has met nobody.

    Args:
        task_id: the id of the task.
        party: this party's feature key.
        folder: for its results.
        resume: see `Resume`.
        seed: as given to the constructor; where it is, all that is drawn can be drawn again.
    """
    run = Run(
        task_id,
        drawn_seed() if seed is None else seed,
        TaskResult(task_id, party, folder),
        CheckpointStore(folder / "resume"),
        resume,
        Account(party),
        order=drawn_order(task_id, seed),
    )
    if seed is not None:
        run.noise = sha256(f"noise {seed}".encode()).digest()
    return run


def drawn_seed() -> bytes:
    """A seed of a party's own that nobody can try out."""
    return secrets.token_bytes(32)


def drawn_order(task_id: str, seed: int | None) -> int:
    """What the Host draws the order of rows from, and tells everybody: nothing of its own seed.

    Args:
        task_id: the id of the task.
        seed: as given to its constructor. Where it is, so that all can be drawn again, the order
            is the task's.
    """
    if seed is None:
        return secrets.randbits(63)
    return int.from_bytes(sha256(b"order of " + task_id.encode()).digest()[:8], "big") >> 1
