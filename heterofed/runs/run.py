"""Holds one run of a task at one party, which exists from `launch_task` until its return."""

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
from heterofed.reporting.task_result import TaskResult
from heterofed.runs.checkpoint_store import CheckpointStore, RunRecord
from heterofed.runs.no_receipt import NoReceipt
from heterofed.runs.psi_executor import ExecutorChoice
from heterofed.runs.records.no_record import NoRecord
from heterofed.runs.state import RunState

if TYPE_CHECKING:
    from heterofed.messaging.transcript import Transcript
    from heterofed.privacy.repeats import Repeats
    from heterofed.runs.models import ModelRegistry

Resume = Literal["auto", "never", "require"]
"""The treatment of an unfinished run: resume it if all parties can, never resume, or require it."""


@dataclass(slots=True)
class Run:
    """The state of one run of a task, which exists from `launch_task` until its return.

    `seed` starts this party's random streams and is never sent. Whoever has it knows the initial
    weights, dropout masks and noise, and can compute raw rows from features.

    Attributes:
        store: the folder in which the run is kept until it has ended.
        maybe_party, maybe_agreement: the `Party` of this task and the agreement of all parties;
            None before the parties are connected. `party`, `agreement` and `plan` return them
            afterwards.
        record: the record of this run in the store, if the task is of a kind that is kept.
        ended: the last run that ended in this results folder.
        round, batch: the round that runs or ended last, and how many of its batches were trained
            before its latest checkpoint; 0 once it has ended.
        complete: whether all parties hold the checkpoint after the last round.
        noise: the 32 secret bytes from which this party's noise is drawn; they are never sent.
        order: the seed of the order of rows, at the Host.
        futile: how often a party was lost since the last checkpoint.
        begun: the number of runs that were begun since the launch.
        simulated: whether all parties are in one process, so that nothing is disclosed.
        releases: the ledger, after it was opened; see `opened_ledger`.
        passing: the current or last pass of a feature hook over its ids.
        tell: writes the releases so far to the results; it does nothing if there is nothing to
            write.
        mask_secrets: the secret shared with each other Collaborator since the last connection, if
            the plan needs one.
        sum_key: the key that hides the sums of the sites of this party's role from the Host, once
            it was handed on since the last connection.
        batch_rows: the number of rows of each batch that a feature hook is to yield, at a site of a
            role.
        waits: the seconds to wait for a lost party; 0 before a party was lost.
        purpose: what the task does, as parties say it to each other when they meet.
        lasting: this party's settings that hold for a whole run; see `Settings.lasting`.
        meeting: a description of the place where the parties connect; empty before that.
        terms: the terms of the task file in canonical form; empty without a task file.
        secured: whether every party proves its identity by a key.
        defences: the class names of the defences, by what they protect.
        ledger: the folder in which releases of this party are counted over all runs.
        predicts: whether the run predicts with trained models and trains nothing.
        models: the models and optimizers of this run, if its kind of task has some.
        around_hooks: the context manager within which hooks of this run are called.
        state: the state in memory, which is replaced when the run starts again.
        repeats: the gradients that were sent, so that repeated batches get the same defended
            gradients; they are kept while this process runs.
        id_key: the number of the key by which rows are currently matched, from 0.
        psi_executor: what computes this party's part of an intersection.
        account_of_ids: the name under which signed ids are counted; empty means the task's.
        transcript: the digests of the messages since the parties connected.
        receipt: the receipt of this run, which does nothing if the parties sign none.
        recorder: the record of the messages, which does nothing unless the user wants one.
        spent: returns the epsilons and releases so far, by name.
        harmless: runs code that only measures or shows something, and catches its errors.
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
    purpose: str = "train"
    lasting: dict[str, str] = field(default_factory=dict)
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
    sum_key: bytes = b""
    batch_rows: list[int] | None = None
    ledger: Path | None = None
    predicts: bool = False
    id_key: int = 0
    account_of_ids: str = ""
    psi_executor: ExecutorChoice = field(default_factory=ExecutorChoice)
    noise: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    harmless: Harmless = field(default_factory=Harmless)
    order: int = 0
    round: int = 0
    batch: int = 0
    models: ModelRegistry | None = None
    around_hooks: Callable[[], AbstractContextManager[None]] = nullcontext
    state: RunState = field(default_factory=RunState)
    repeats: Repeats | None = None
    transcript: Transcript | None = None
    receipt: NoReceipt = field(default_factory=NoReceipt)
    recorder: NoRecord = field(default_factory=NoRecord)
    spent: Callable[[], dict[str, float]] = dict

    @property
    def party(self) -> Party:
        """The `Party` that connects this run to its peers.

        Raises:
            LocalProtocolError: the parties are not connected yet.
        """
        if self.maybe_party is None:
            raise LocalProtocolError("the party was asked for before the parties met")
        return self.maybe_party

    @property
    def agreement(self) -> Agreement:
        """The agreement of the parties from their last connection.

        Raises:
            LocalProtocolError: the parties are not connected yet.
        """
        if self.maybe_agreement is None:
            raise LocalProtocolError("the plan was asked for before the parties met")
        return self.maybe_agreement

    @property
    def plan(self) -> Plan:
        """The plan of the parties; it raises the same errors as `agreement`."""
        return self.agreement.plan

    @property
    def kept_record(self) -> RunRecord:
        """The record of this run in the store.

        Raises:
            LocalProtocolError: the run has not begun.
        """
        if self.record is None:
            raise LocalProtocolError("the record of the run was asked for before it began")
        return self.record

    def open_metrics(self, name: str, keys: Sequence[str]) -> Metrics:
        """Open a metrics set in the results folder, in place of an earlier one of the same name."""
        self.metrics[name] = Metrics(name, keys, self.result.folder, lambda: self.round)
        return self.metrics[name]

    def open_all_metrics(self, registered: Mapping[str, Sequence[str]]) -> None:
        """Open the metrics sets that the user's class registered."""
        for name, keys in registered.items():
            self.open_metrics(name, keys)

    def opened_ledger(self) -> ReleaseLedger:
        """Return the open ledger, which counts this party's releases over all runs of the task.

        A simulation counts in its own run only, because nothing leaves the process.

        Raises:
            LedgerError: the ledger cannot be read or written.
        """
        if self.releases is None:
            if self.simulated and self.record is not None:
                folder = own_folder(self.store.folder / "releases")
            else:
                folder = private_folder(self.ledger or heterofed_home(), "releases")
            self.releases = ReleaseLedger(folder, self.task_id, self.result.party)
        return self.releases

    def close_ledger(self) -> None:
        """Close the ledger until it is used again."""
        if self.releases is not None:
            self.releases.close()
            self.releases = None


def new_run(
    task_id: str,
    party: str,
    folder: Path,
    resume: Resume,
    seed: int | None,
    order_of: str | None = None,
) -> Run:
    """Return a run that is not connected yet.

    Args:
        task_id: the id of the task.
        party: this party's feature key.
        folder: the folder for the results.
        resume: whether to resume an unfinished run; see `Resume`.
        seed: the seed that the constructor got; with a seed, all random draws can be repeated.
        order_of: see `Engine`.
    """
    run = Run(
        task_id,
        drawn_seed() if seed is None else seed,
        TaskResult(task_id, party, folder),
        CheckpointStore(folder / "resume"),
        resume,
        Account(party),
        order=drawn_order(order_of or task_id, seed),
    )
    if seed is not None:
        run.noise = sha256(f"noise {seed}".encode()).digest()
    return run


def drawn_seed() -> bytes:
    """Return a random seed that is too long to be guessed."""
    return secrets.token_bytes(32)


def drawn_order(name: str, seed: int | None) -> int:
    """Return the seed of the order of rows, which the Host sends to all and which hides its own
    seed.

    Args:
        name: the id of the task, unless `Engine.order_of` says otherwise.
        seed: the seed that the Host's constructor got. With a seed, the order depends on the name
            only, so that a run can be repeated.
    """
    if seed is None:
        return secrets.randbits(63)
    return int.from_bytes(sha256(b"order of " + name.encode()).digest()[:8], "big") >> 1
