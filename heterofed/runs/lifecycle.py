"""Runs any task at one party, from its launch through all attempts to its result.

This module knows no torch and no phase; a `Task` defines the work in between.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import get_args

from heterofed.errors import (
    ConfigError,
    HeteroFedError,
    JoinRefusedError,
    JoinTimeoutError,
    LocalProtocolError,
    PeerLostError,
    PeerTimeoutError,
    TaskAborted,
    TaskFailed,
    TaskFinishedError,
)
from heterofed.events import Callback, PartyLost, TaskBegan, TaskEnded
from heterofed.messaging import aborts
from heterofed.messaging.party import ABORT_LINGER
from heterofed.protocol.states import Role
from heterofed.rendezvous.address import check_free
from heterofed.reporting import console
from heterofed.reporting.log_lines import chosen_format, named_facts, placed
from heterofed.reporting.results import (
    check_name,
    check_writable,
    ended_run,
    write_costs,
    write_egress,
    write_summary,
)
from heterofed.reporting.task_result import TaskResult
from heterofed.runs.data_check import mention_verdict, refuse_reimported_main
from heterofed.runs.folder_lock import folder_lock
from heterofed.runs.hook_calls import check_hooks
from heterofed.runs.journal import journal_kept
from heterofed.runs.psi_executor import chosen_executor
from heterofed.runs.records.active import may_take_over
from heterofed.runs.report import reported
from heterofed.runs.run import Resume, Run, new_run
from heterofed.runs.settings import check_callbacks, check_flag
from heterofed.runs.status import status_kept
from heterofed.runs.task import Task
from heterofed.runs.unfinished import awaited, recall
from heterofed.transport.interrupts import UNINTERRUPTED
from heterofed.watch.beside import watched

logger = logging.getLogger("heterofed")

UNHEARD = (
    JoinRefusedError,
    JoinTimeoutError,
    PeerLostError,
    PeerTimeoutError,
    TaskAborted,
)
"""The errors of connections, which do no harm to a run in which only goodbyes are missing."""

MOST_FUTILE = 50
"""The number of times that parties may be lost in a row without a new checkpoint in between."""


class Lifecycle:
    """One launch of a task, from the checks to the summary.

    Args:
        task: the work after the parties are connected.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._settings = task.settings

    def launch(
        self,
        task_id: str,
        resume: Resume = "never",
        *,
        callbacks: Sequence[Callback] = (),
        watch: bool = False,
    ) -> TaskResult:
        """Run the task; see the schedulers' `launch_task`."""
        may_take_over(self._task, task_id)
        check_callbacks(callbacks)
        check_flag("watch", watch)
        results = self._settings.results_dir.absolute()
        chosen_format()  # a wrong one shows before anything is done
        whose = placed(task_id, self._settings.shown_name)
        with whose as place, console.attached() as show:
            page = watched(results, task_id) if watch else contextlib.nullcontext()
            return self._launch(task_id, resume, (place.note, show, *callbacks), page)

    def _launch(
        self,
        task_id: str,
        resume: Resume,
        heard_by: Sequence[Callback],
        page: AbstractContextManager[None],
    ) -> TaskResult:
        task, run, began = self._task, self._new_run(task_id, resume), time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(signals_as_exceptions())
            check_hooks(task.owner, task.hook_arguments)
            task.hooks.call("validate_context")
            task.check(run)
            check_writable(run.result.folder)
            with run.harmless("the note on the data check"):
                mention_verdict(task_id)
            stack.enter_context(page)
            stack.enter_context(folder_lock(run.result.folder, task.folder_wait, task.role))
            stack.callback(run.close_ledger)
            run.ended = ended_run(run.result.folder)
            recall(run, self._settings.seed, self._settings.lasting)
            if task.is_reported:
                stack.enter_context(reported(run))  # after the status records how the run has ended
            note = stack.enter_context(status_kept(run, self._settings))
            own = (run.result.note, note, *self._journal(run))
            callbacks = (*own, *heard_by, *self._settings.callbacks)
            while not self._attempt(run, callbacks):
                pass
            run.result.seconds = time.monotonic() - began
            _write_results(run)
        return run.result

    def _new_run(self, task_id: str, resume: Resume) -> Run:
        refuse_reimported_main()
        check_name(task_id, "task_id")
        if resume not in get_args(Resume):
            raise ConfigError(f"resume={resume!r}: give {', '.join(get_args(Resume))}")
        settings = self._settings
        settings.check_names()
        if self._task.role is Role.HOST and settings.place is None:
            turns = self._task.purpose if self._task.folder_wait else ""
            check_free(task_id, turns=turns)
        folder = self._task.results_folder(task_id)
        order_of = self._task.engine.order_of
        run = new_run(task_id, settings.feature_key, folder, resume, settings.seed, order_of)
        run.purpose = self._task.purpose
        if settings.psi_role:
            run.psi_executor = chosen_executor(settings.psi_executor, settings.psi_key_leaves)
            run.psi_executor.check(has_key=settings.psi_role == "signer")
        self._task.engine.run = run
        self._task.begin(run)
        return run

    def _journal(self, run: Run) -> Sequence[Callback]:
        """Return the callback that keeps the journal, if the results folder is the run's own."""
        return [journal_kept(run)] if self._task.is_reported else []

    def _attempt(self, run: Run, callbacks: Sequence[Callback]) -> bool:
        """Connect and do the task; return False if a party was lost and may come back."""
        run.maybe_party, linger = None, ABORT_LINGER
        if run.complete:
            self._task.settle(run)
            if not awaited(run):
                return True
        try:
            self._meet_and_perform(run, callbacks)
        except BaseException as error:
            with contextlib.suppress(OSError, HeteroFedError):  # the first error is raised
                run.tell()
            if isinstance(error, PeerLostError | PeerTimeoutError) and self._waits_for(run, error):
                return False
            if isinstance(error, UNHEARD) and self._is_over(run, error):
                return True
            try:
                self._end_badly(run, error)
            except KeyboardInterrupt:  # a second Ctrl-C ends at once
                linger = 0.0
            raise
        finally:
            _close(run, linger)
        return True

    def _meet_and_perform(self, run: Run, callbacks: Sequence[Callback]) -> None:
        with self._task.meet(run, callbacks) as party:
            run.maybe_party = party
            run.result.run = run.agreement.run.hex()
            run.result.note_plan(run.plan)
            self._task.open_folder(run)
            party.emit(began(run))
            self._task.perform(run)
            run.tell()
            party.emit(TaskEnded())

    def _is_over(self, run: Run, error: TaskFailed) -> bool:
        """Return whether the run is complete despite the error, and then complete this party's
        part.
        """
        if isinstance(error, TaskFinishedError) and run.maybe_party is None and run.record:
            if not run.complete:  # otherwise it was completed before the parties connected
                self._task.settle(run)
            return True
        if run.complete:
            logger.warning("not all parties have heard that the task is complete: %s", error)
        return run.complete

    def _waits_for(self, run: Run, error: PeerLostError | PeerTimeoutError) -> bool:
        """Return whether to wait for a lost party, and if so tell the other parties to wait too."""
        party, agreement = run.maybe_party, run.maybe_agreement
        if not self._task.goes_on or party is None or agreement is None:
            return False
        if not agreement.plan.wait_for_peers:
            return False
        run.futile += 1
        if run.futile > MOST_FUTILE:
            error.add_note(f"heterofed: given up after {MOST_FUTILE} losses without a checkpoint")
            return False
        own = self._settings.join_timeout or math.inf
        run.waits = min(agreement.plan.wait_for_peers, own)
        logger.warning("%s", error.happened or error)
        party.emit(PartyLost(error.party or "a party", run.waits))
        party.abort(error, aborts.abort_code(error, None))
        return True

    def _end_badly(self, run: Run, error: BaseException) -> None:
        """Tell every party why the task ended, and tell the user where the results are."""
        self._task.failed(run, error)
        party = run.maybe_party
        if party is None:
            return
        if isinstance(error, HeteroFedError):
            error.begun = run.maybe_agreement is not None
        if isinstance(error, LocalProtocolError):
            logger.error("a bug in heterofed: %s", error)
        where = aborts.where(party.phase, party.round, party.batch)
        error.add_note(f"heterofed: party {self._settings.shown_name}, {where}")
        party.abort(error, aborts.abort_code(error, run.failed_hook))
        about = error.party if isinstance(error, TaskFailed) else None
        party.emit(TaskEnded(type(error).__name__, about or None))
        with run.harmless("the account"), contextlib.suppress(OSError, TaskFailed):
            if run.result.folder.exists() and party.account.egress.is_worth_a_file:
                _write_account(run)
            run.result.folder.rmdir()  # succeeds only if nothing was written
        if isinstance(error, TaskFailed) and not console.shows_errors():
            logger.error("%s: %s", type(error).__name__, error)
        else:  # the text may hold data, so only the caller may show it
            spot = aborts.where(party.phase, party.round, party.batch, " in ")
            logger.error("%s ended the task%s", aborts.cause(error), spot)
        _tell_of_checkpoint(run)


def _close(run: Run, linger: float) -> None:
    """Close this party's connections, if there are any, and count their traffic."""
    run.recorder.close()
    if (party := run.maybe_party) is not None:
        run.result.bytes_sent += party.bytes_sent
        run.result.bytes_received += party.bytes_received
        party.close(linger)


def _tell_of_checkpoint(run: Run) -> None:
    with contextlib.suppress(OSError, TaskFailed):
        if marks := run.store.marks():
            logger.info(
                "if all parties are started again, the task goes on from the newest checkpoint"
                " that all of them hold; the newest here is of %s",
                console.shown_mark(marks[-1].round, marks[-1].batch),
            )


def _write_results(run: Run) -> None:
    run.result.metrics |= {
        name: each.path for name, each in run.metrics.items() if each.path.exists()
    }
    _write_account(run)
    with run.harmless("the quality of links"):
        run.result.links = run.account.links()
    write_summary(run.result)
    run.close_ledger()  # in a simulation, the ledger is in the store
    run.store.clear()
    with run.harmless("the summary"):
        told = named_facts("TaskSummary", run.result.to_dict())
        logger.info("%s", run.result.summary(), extra=told)


def _write_account(run: Run) -> None:
    with run.harmless("comm.csv"):
        write_costs(run.result, run.account)
    with run.harmless("outbound.csv"):
        write_egress(run.result, run.account.egress)


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Turn SIGTERM into SystemExit and Ctrl-C into KeyboardInterrupt, so that the other parties are
    told, and raise them only where no frame is half sent. A handler of the user's for Ctrl-C stays.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(_signal: int, _frame: object) -> None:
        UNINTERRUPTED.interrupt(SystemExit(aborts.SIGTERM_EXIT))

    def stop(_signal: int, _frame: object) -> None:
        UNINTERRUPTED.interrupt(KeyboardInterrupt())

    handlers: dict[signal.Signals, Callable[[int, object], None]] = {signal.SIGTERM: leave}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handlers[signal.SIGINT] = stop
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def began(run: Run) -> TaskBegan:
    """Return the event that tells callbacks which task has begun."""
    plan, result = run.plan, run.result
    return TaskBegan(
        run.task_id,
        result.party,
        plan.host,
        plan.collaborators,
        run.agreement.run.hex(),
        result.folder,
    )
