"""The life of a task at one party, whatever the task does: settings, launch, ending, result.

Knows no torch and no phase; the schedulers fill in `_heterofed_meet` and `_heterofed_perform`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

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
from heterofed.files import file_lock, heterofed_home
from heterofed.messaging import aborts
from heterofed.messaging.party import ABORT_LINGER, Party
from heterofed.messaging.peer import Timeouts
from heterofed.metrics import Metrics, registered_metrics
from heterofed.rendezvous.local import lock_path
from heterofed.reporting import console
from heterofed.reporting.costs import Account
from heterofed.reporting.results import (
    TaskResult,
    check_name,
    check_writable,
    ended_run,
    fresh_folder,
    write_costs,
    write_outbound,
    write_summary,
)
from heterofed.reporting.tracebacks import RAISED_IN
from heterofed.runs.checkpoint_store import CheckpointStore
from heterofed.runs.data_check import mention_verdict, refuse_reimported_main
from heterofed.runs.hook_calls import arguments, check_hooks
from heterofed.runs.report import reported
from heterofed.runs.reserved import refuse_reserved
from heterofed.runs.run import (
    Resume,
    Run,
    agreement_of,
    awaited,
    close_ledger,
    drawn_order,
    drawn_seed,
    recall,
)
from heterofed.runs.settings import Settings, Shown
from heterofed.runs.status import status_kept

if TYPE_CHECKING:
    from filelock import FileLock

logger = logging.getLogger("heterofed")

T = TypeVar("T")


UNHEARD = (
    JoinRefusedError,
    JoinTimeoutError,
    PeerLostError,
    PeerTimeoutError,
    TaskAborted,
)
"""How meeting and talking to the others may fail: no harm to a run of which only goodbyes are
left."""

MOST_FUTILE = 50
"""How often in a row parties may be lost before the run has come one checkpoint further."""


class Scheduler(ABC):
    """Base of all schedulers: one party's part in one kind of task."""

    _heterofed_settings: Settings
    _heterofed_run: Run | None = None
    _heterofed_reports = True
    """Whether `report.html` is written at the end of a launch."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_reserved(cls)

    @abstractmethod
    def launch_task(self, task_id: str) -> Any:
        """Run the task in this process until it ends."""

    @abstractmethod
    def load_local_ids(self) -> Iterable[str]:
        """Hook: the ids of this party's samples.

        Returns:
            Unique strings, at least one. Exact code points count; nothing is normalised.
        """

    def validate_context(self) -> None:
        """Hook: check settings before anything else happens; call `super().validate_context()`.

        Raises:
            ConfigError: a setting of the constructor cannot work.
        """
        self._heterofed_settings.check()

    def _heterofed_launch(self, task_id: str, resume: Resume = "never") -> TaskResult:
        """Run the task from the checks to the summary; see the schedulers' `launch_task`."""
        with console.attached() as show:
            return self._heterofed_launch_shown(task_id, resume, show)

    def _heterofed_launch_shown(self, task_id: str, resume: Resume, show: Callback) -> TaskResult:
        refuse_reimported_main()
        check_name(task_id, "task_id")
        if resume not in get_args(Resume):
            raise ConfigError(f"resume={resume!r}: give {', '.join(get_args(Resume))}")
        settings = self._heterofed_settings
        settings.check_names()
        began = time.monotonic()
        folder = self._heterofed_results_folder(task_id)
        run = self._heterofed_run = Run(
            task_id,
            drawn_seed() if settings.seed is None else settings.seed,
            TaskResult(task_id, settings.feature_key, folder),
            CheckpointStore(folder / "resume"),
            resume,
            Account(settings.feature_key),
            order=drawn_order(task_id, settings.seed),
        )
        if settings.seed is not None:  # then all that is drawn can be drawn again
            run.noise = hashlib.sha256(f"noise {settings.seed}".encode()).digest()
        with ExitStack() as stack:
            stack.enter_context(sigterm_as_exit())
            self._heterofed_check_hooks()
            self._heterofed_call_hook("validate_context", self.validate_context)
            check_writable(folder)
            with run.harmless("the note on the data check"):
                mention_verdict(task_id)
            stack.enter_context(_folder_lock(folder, self._heterofed_wait_for_folder()))
            stack.callback(close_ledger, run)
            run.ended = ended_run(folder)
            recall(run, self._heterofed_settings.seed)
            if self._heterofed_reports:
                stack.enter_context(reported(run))  # once the status says how it has ended
            note = stack.enter_context(status_kept(run, settings))
            callbacks = (run.result.note, note, show, *settings.callbacks)
            while not self._heterofed_attempt(run, callbacks):
                pass
            run.result.seconds = time.monotonic() - began
            run.result.metrics |= {
                name: each.path for name, each in run.metrics.items() if each.path.exists()
            }
            _write_account(run)
            write_summary(run.result)
            close_ledger(run)  # of a simulation it lies in the store
            run.store.clear()
            with run.harmless("the summary"):
                logger.info("%s", run.result.summary())
        return run.result

    def _heterofed_attempt(self, run: Run, callbacks: Sequence[Callback]) -> bool:
        """Meet the others and do the task; False where a party is gone and may come back."""
        run.party, linger = None, ABORT_LINGER
        if run.complete:
            self._heterofed_settle(run)
            if not awaited(run):
                return True
        try:
            with self._heterofed_meet(run, callbacks) as party:
                run.party = party
                agreed = agreement_of(run)
                run.result.run, run.result.fusion = agreed.run.hex(), agreed.plan.fusion
                self._heterofed_open_folder(run)
                party.emit(began(run))
                self._heterofed_perform(run)
                run.tell()
                party.emit(TaskEnded())
        except BaseException as error:
            with contextlib.suppress(OSError, HeteroFedError):  # what went wrong is the error
                run.tell()
            if isinstance(error, PeerLostError | PeerTimeoutError) and self._heterofed_waits_for(
                run, error
            ):
                return False
            if isinstance(error, UNHEARD) and self._heterofed_is_over(run, error):
                return True
            try:
                self._heterofed_end_badly(run, error)
            except KeyboardInterrupt:  # a second Ctrl-C: at once
                linger = 0.0
            raise
        finally:
            if run.party is not None:
                run.result.bytes_sent += run.party.bytes_sent
                run.result.bytes_received += run.party.bytes_received
                run.party.close(linger)
        return True

    def _heterofed_is_over(self, run: Run, error: TaskFailed) -> bool:
        """Whether the run has ended well all the same; completes this party's part where it has."""
        if isinstance(error, TaskFinishedError) and run.party is None and run.record:
            if not run.complete:  # else it was settled before they met
                self._heterofed_settle(run)
            return True
        if run.complete:
            logger.warning("not all parties have heard that the task is complete: %s", error)
        return run.complete

    def _heterofed_waits_for(self, run: Run, error: PeerLostError | PeerTimeoutError) -> bool:
        """Whether this party waits for one that is gone; then it tells the others to do so too."""
        if run.party is None or run.agreement is None or not run.agreement.plan.wait_for_peers:
            return False
        run.futile += 1
        if run.futile > MOST_FUTILE:
            error.add_note(f"heterofed: given up after {MOST_FUTILE} losses without a checkpoint")
            return False
        own = self._heterofed_settings.join_timeout or math.inf
        run.waits = min(run.agreement.plan.wait_for_peers, own)
        logger.warning("%s", error.happened or error)
        run.party.emit(PartyLost(error.party or "a party", run.waits))
        run.party.abort(error, aborts.abort_code(error, None))
        return True

    def get_metrics(self, name: str) -> Metrics:
        """The metrics set that `@register_metrics` declared under this name.

        Raises:
            ConfigError: there is none, or the task has not begun.
        """
        metrics = self._heterofed_run.metrics if self._heterofed_run else {}
        if name not in metrics:
            known = ", ".join(sorted(metrics)) or "none (metrics open when the task begins)"
            raise ConfigError(f"no metrics set {name!r} is registered; there are: {known}")
        return metrics[name]

    @Shown
    def result(self) -> TaskResult:
        """What came of the last task so far; raises ConfigError before the first."""
        if self._heterofed_run is None:
            raise ConfigError("result: no task was launched yet")
        return self._heterofed_run.result

    @Shown
    def feature_key(self) -> str:
        """This party's key in the task."""
        return self._heterofed_settings.feature_key

    @Shown
    def name(self) -> str | None:
        """What logs and the results folder call this party, where that was given."""
        return self._heterofed_settings.name

    @Shown
    def schedule_timeout(self) -> float:
        """As given to the constructor, in seconds."""
        return self._heterofed_settings.schedule_timeout

    @Shown
    def data_channel_timeout(self) -> tuple[float, float]:
        """As given to the constructor, in seconds."""
        return self._heterofed_settings.data_channel_timeout

    @Shown
    def task_id(self) -> str | None:
        """Id of the task that runs or ran last; None before."""
        return self._heterofed_run.task_id if self._heterofed_run else None

    @Shown
    def current_round(self) -> int:
        """Round that runs or ended last, from 1; 0 before the first."""
        return self._heterofed_run.round if self._heterofed_run else 0

    # -- for the kinds of schedulers -------------------------------------------------------

    @abstractmethod
    @contextmanager
    def _heterofed_meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        """Find the other parties; sets `run.agreement`. The party is closed by `launch_task`."""
        yield  # type: ignore[misc]

    def _heterofed_wait_for_folder(self) -> float:
        """Seconds to wait for another process that writes to the results folder; -1: for ever."""
        return 0.0

    def _heterofed_results_folder(self, task_id: str) -> Path:
        settings = self._heterofed_settings
        return settings.results_dir.absolute() / task_id / settings.shown_name

    def _heterofed_open_folder(self, run: Run) -> None:
        """Make the results folder for what was agreed on: a new run, unless it goes on."""
        fresh_folder(run.result.folder)
        self._heterofed_open_registered_metrics(run)

    def _heterofed_settle(self, run: Run) -> None:
        """Complete this party's part of a run that all others have ended."""
        raise TaskFinishedError(party=run.result.party)

    @abstractmethod
    def _heterofed_perform(self, run: Run) -> None:
        """Do the task, from the first phase after the join to its finish."""

    def _heterofed_check_hooks(self) -> None:
        """Check that every hook can be called as it will be."""
        check_hooks(self)

    def _heterofed_timeouts(self, calculation: float = 300.0) -> Timeouts:
        return Timeouts(
            calculation,
            self._heterofed_settings.schedule_timeout,
            self._heterofed_settings.data_channel_timeout[1],
        )

    def _heterofed_open_registered_metrics(self, run: Run) -> None:
        for name, keys in registered_metrics(type(self)).items():
            self._heterofed_open_metrics(run, name, keys)

    def _heterofed_open_metrics(self, run: Run, name: str, keys: Sequence[str]) -> Metrics:
        run.metrics[name] = Metrics(name, keys, run.result.folder, lambda: run.round)
        return run.metrics[name]

    def _heterofed_call_hook(
        self, hook: str, call: Callable[..., T], *args: Any, **kwargs: Any
    ) -> T:
        args, kwargs = arguments(call, args, kwargs)
        with self._heterofed_in_hook(hook):
            return call(*args, **kwargs)

    @contextmanager
    def _heterofed_in_hook(self, hook: str) -> Iterator[None]:
        """Count user code as this party's work, and mark what it raises: that comes out unchanged,
        with a note of where.
        """
        party = self._heterofed_run.party if self._heterofed_run is not None else None
        try:
            with party.computing() if party is not None else contextlib.nullcontext():
                yield
        except Exception as error:
            if self._heterofed_run is not None and not isinstance(error, HeteroFedError):
                self._heterofed_run.failed_hook = hook
                error.add_note(f"{RAISED_IN}{hook} of {self._heterofed_settings.shown_name}")
            raise

    def _heterofed_end_badly(self, run: Run, error: BaseException) -> None:
        """Tell every party why the task ended, and the user where."""
        party = run.party
        if party is None:
            return
        if isinstance(error, LocalProtocolError):
            logger.error("a bug in heterofed: %s", error)
        where = aborts.where(party.phase, party.round, party.batch)
        error.add_note(f"heterofed: party {self._heterofed_settings.shown_name}, {where}")
        party.abort(error, aborts.abort_code(error, run.failed_hook))
        party.emit(TaskEnded(type(error).__name__))
        with run.harmless("the account"), contextlib.suppress(OSError, TaskFailed):
            if run.result.folder.exists() and party.account.outbound.is_worth_a_file:
                _write_account(run)
            run.result.folder.rmdir()  # only where nothing was written
        if isinstance(error, TaskFailed) and not console.shows_errors():
            logger.error("%s: %s", type(error).__name__, error)
        else:  # its text may hold data: it is the caller's to show
            spot = aborts.where(party.phase, party.round, party.batch, " in ")
            logger.error("%s ended the task%s", aborts.cause(error), spot)
        with contextlib.suppress(OSError, TaskFailed):
            if marks := run.store.marks():
                logger.info(
                    "if all parties are started again, the task goes on from the newest checkpoint"
                    " that all of them hold; the newest here is of %s",
                    console.shown_mark(marks[-1].round, marks[-1].batch),
                )


def _write_account(run: Run) -> None:
    with run.harmless("comm.csv"):
        write_costs(run.result, run.account)
    with run.harmless("outbound.csv"):
        write_outbound(run.result, run.account.outbound)


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that the other parties are told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(_signal: int, _frame: object) -> None:
        raise SystemExit(aborts.SIGTERM_EXIT)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for(lock: FileLock, folder: Path, seconds: float) -> None:
    from filelock import Timeout

    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise ConfigError(
            f"another process has made predictions in {folder} for {seconds:.0f} s; wait for its"
            " end, stop it, or raise join_timeout"
        ) from None


@contextmanager
def _folder_lock(folder: Path, wait: float) -> Iterator[None]:
    """Keep two processes from writing to one results folder."""
    from filelock import Timeout  # here: it takes a tenth of all that loads with us

    lock = file_lock(lock_path(f"results {folder}", heterofed_home()))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise ConfigError(
                f"another process writes to the results folder {folder}; stop it, or give this"
                " party another name or results_dir"
            ) from None
        logger.info("another prediction is made in %s: this one waits for its end", folder)
        _wait_for(lock, folder, wait)
    try:
        yield
    finally:
        lock.release()


def began(run: Run) -> TaskBegan:
    """The event that tells callbacks which task has begun."""
    agreed, result = agreement_of(run), run.result
    plan = agreed.plan
    return TaskBegan(
        run.task_id, result.party, plan.host, plan.collaborators, agreed.run.hex(), result.folder
    )
