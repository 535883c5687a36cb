"""The life of a task at one party, whatever the task does: settings, launch, ending, result.

Knows no torch and no phase; the schedulers fill in `_meet` and `_perform`.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from filelock import FileLock
from filelock import Timeout as LockTaken

from heterofed import console, endings
from heterofed.checker import mention_verdict, refuse_reimported_main
from heterofed.errors import ConfigError, HeteroFedError, LocalProtocolError, TaskFailed
from heterofed.events import Callback, TaskEnded
from heterofed.metrics import Metrics, registered_metrics
from heterofed.party import Party
from heterofed.peers import Timeouts
from heterofed.plan import Plan
from heterofed.rendezvous import Agreement
from heterofed.results import (
    TaskResult,
    check_name,
    check_writable,
    fresh_folder,
    write_summary,
)
from heterofed.transport.local import heterofed_home, local_address

logger = logging.getLogger("heterofed")

T = TypeVar("T")


class Shown(Generic[T]):
    """A value of ours that users may read as an attribute, and may shadow with one of their own.

    Not a property: a subclass that assigns the name gets its own value and disturbs nothing,
    since we never read these names ourselves.
    """

    def __init__(self, read: Callable[[Any], T]) -> None:
        self._read = read
        self.__doc__ = read.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Shown[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> T | Shown[T]:
        """The value, or on the class this object itself."""
        return self if instance is None else self._read(instance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a scheduler's constructor was given that every kind of task needs."""

    feature_key: str
    name: str | None
    schedule_timeout: float
    data_channel_timeout: tuple[float, float]
    join_timeout: float
    results_dir: Path
    callbacks: tuple[Callback, ...]
    seed: int | None = None

    @property
    def shown_name(self) -> str:
        """What logs and the results folder call this party."""
        return self.name or self.feature_key

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: naming the setting.
        """
        check_name(self.feature_key, "feature_key")
        check_name(self.shown_name, "name")
        check_seconds("schedule_timeout", self.schedule_timeout, least=0.001)
        if len(self.data_channel_timeout) != 2:
            raise ConfigError("data_channel_timeout: give two numbers of seconds (link, byte)")
        for seconds in self.data_channel_timeout:
            check_seconds("data_channel_timeout", seconds, least=0.001)
        check_seconds("join_timeout", self.join_timeout)
        if self.seed is not None and not is_count(self.seed):
            raise ConfigError(f"seed={self.seed!r}: give a whole number from 0 on, or None")


def check_seconds(name: str, seconds: object, least: float = 0.0) -> None:
    """Refuse what is not a number of seconds.

    Raises:
        ConfigError: naming the setting.
    """
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not least <= seconds <= 10 * 365 * 86_400
    ):
        raise ConfigError(f"{name}={seconds!r}: give a number of seconds from {least:g} on")


def is_count(value: object, least: int = 0) -> bool:
    """Whether a setting is a whole number from `least` on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(slots=True)
class Run:
    """One run of a task: what exists between `launch_task` and its return.

    `seed` starts this party's random streams and stays here: whoever has it has the weights,
    dropout masks and noise, and can work back from features to raw rows.
    """

    task_id: str
    seed: int
    result: TaskResult
    metrics: dict[str, Metrics]
    party: Party | None = None
    agreement: Agreement | None = None
    failed_hook: str | None = None
    round: int = 0
    state: dict[str, Any] = field(default_factory=dict)


class Scheduler(ABC):
    """Base of all schedulers: one party's part in one kind of task."""

    _settings: Settings
    _run: Run | None = None

    @abstractmethod
    def launch_task(self, task_id: str) -> Any:
        """Run the task in this process until it ends."""

    @abstractmethod
    def load_local_ids(self) -> Sequence[str]:
        """Hook: the ids of this party's samples.

        Returns:
            Unique strings, at least one. Exact code points count; nothing is normalised.
        """

    def validate_context(self) -> None:
        """Hook: check settings before anything else happens; call `super().validate_context()`.

        Raises:
            ConfigError: a setting of the constructor cannot work.
        """
        self._settings.check()

    def _launch(self, task_id: str) -> TaskResult:
        """Run the task from the checks to the summary; see the schedulers' `launch_task`."""
        refuse_reimported_main()
        check_name(task_id, "task_id")
        settings = self._settings
        began = time.monotonic()
        folder = settings.results_dir.absolute() / task_id / settings.shown_name
        run = self._run = Run(
            task_id,
            secrets.randbits(63) if settings.seed is None else settings.seed,
            TaskResult(task_id, settings.feature_key, folder),
            metrics={},
        )
        with ExitStack() as stack:
            show = stack.enter_context(console.attached())
            stack.enter_context(sigterm_as_exit())
            self._call_hook("validate_context", self.validate_context)
            check_writable(folder)
            mention_verdict(task_id)
            stack.enter_context(_folder_lock(folder))
            try:
                with self._meet(run, (run.result.note, show, *settings.callbacks)) as party:
                    run.party = party
                    fresh_folder(folder)
                    for name, keys in registered_metrics(type(self)).items():
                        self._open_metrics(run, name, keys)
                    self._perform(run)
                    run.result.bytes_sent = party.bytes_sent
                    run.result.bytes_received = party.bytes_received
                    party.emit(TaskEnded())
            except BaseException as error:
                self._end_badly(run, error)
                raise
            finally:
                if run.party is not None:
                    run.party.close()
            run.result.seconds = time.monotonic() - began
            run.result.metrics |= {
                name: each.path for name, each in run.metrics.items() if each.path.exists()
            }
            write_summary(run.result)
            logger.info("%s", run.result.summary())
        return run.result

    def get_metrics(self, name: str) -> Metrics:
        """The metrics set that `@register_metrics` declared under this name.

        Raises:
            ConfigError: there is none, or the task has not begun.
        """
        metrics = self._run.metrics if self._run else {}
        if name not in metrics:
            known = ", ".join(sorted(metrics)) or "none (metrics open when the task begins)"
            raise ConfigError(f"no metrics set {name!r} is registered; there are: {known}")
        return metrics[name]

    @Shown
    def result(self) -> TaskResult:
        """What came of the last task so far; raises ConfigError before the first."""
        if self._run is None:
            raise ConfigError("result: no task was launched yet")
        return self._run.result

    @Shown
    def feature_key(self) -> str:
        """This party's key in the task."""
        return self._settings.feature_key

    @Shown
    def name(self) -> str | None:
        """What logs and the results folder call this party, where that was given."""
        return self._settings.name

    @Shown
    def schedule_timeout(self) -> float:
        """As given to the constructor, in seconds."""
        return self._settings.schedule_timeout

    @Shown
    def data_channel_timeout(self) -> tuple[float, float]:
        """As given to the constructor, in seconds."""
        return self._settings.data_channel_timeout

    @Shown
    def task_id(self) -> str | None:
        """Id of the task that runs or ran last; None before."""
        return self._run.task_id if self._run else None

    @Shown
    def current_round(self) -> int:
        """Round that runs or ended last, from 1; 0 before the first."""
        return self._run.round if self._run else 0

    # -- for the kinds of schedulers -------------------------------------------------------

    @abstractmethod
    @contextmanager
    def _meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        """Find the other parties; sets `run.agreement`. The party is closed by `launch_task`."""
        yield  # type: ignore[misc]

    @abstractmethod
    def _perform(self, run: Run) -> None:
        """Do the task, from the first phase after the join to its finish."""

    def _timeouts(self, calculation: float = 300.0) -> Timeouts:
        return Timeouts(
            calculation, self._settings.schedule_timeout, self._settings.data_channel_timeout[1]
        )

    def _open_metrics(self, run: Run, name: str, keys: Sequence[str]) -> Metrics:
        run.metrics[name] = Metrics(name, keys, run.result.folder, lambda: run.round)
        return run.metrics[name]

    def _call_hook(self, hook: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with self._in_hook(hook):
            return call(*args, **kwargs)

    @contextmanager
    def _in_hook(self, hook: str) -> Iterator[None]:
        """Mark what user code raises: it comes out unchanged, with a note of where."""
        try:
            yield
        except Exception as error:
            if self._run is not None and not isinstance(error, HeteroFedError):
                self._run.failed_hook = hook
                error.add_note(f"heterofed: raised in {hook} of {self._settings.shown_name}")
            raise

    def _end_badly(self, run: Run, error: BaseException) -> None:
        """Tell every party why the task ended, and the user where."""
        party = run.party
        if party is None:
            return
        if isinstance(error, LocalProtocolError):
            logger.error("a bug in heterofed: %s", error)
        where = endings.where(party.phase, party.round, party.batch)
        error.add_note(f"heterofed: party {self._settings.shown_name}, {where}")
        party.abort(error, endings.abort_code(error, run.failed_hook))
        party.emit(TaskEnded(type(error).__name__))
        with contextlib.suppress(OSError):
            run.result.folder.rmdir()  # only where nothing was written
        if isinstance(error, TaskFailed):
            logger.error("%s: %s", type(error).__name__, error)
        else:  # its text may hold data: it is the caller's to show
            logger.error("%s ended the task in %s", type(error).__name__, where)


def plan_of(run: Run) -> Plan:
    """The plan of a run that has met its parties."""
    if run.agreement is None:
        raise LocalProtocolError("the plan was asked for before the parties met")
    return run.agreement.plan


def party_of(run: Run) -> Party:
    """The party of a run that has met the others."""
    if run.party is None:
        raise LocalProtocolError("the party was asked for before the parties met")
    return run.party


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that the other parties are told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(_signal: int, _frame: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Keep two processes from writing to one results folder."""
    lock = FileLock(local_address(f"results {folder}", heterofed_home()).lock)
    try:
        lock.acquire(timeout=0)
    except LockTaken:
        raise ConfigError(
            f"another process writes to the results folder {folder}; stop it, or give this party"
            " another name or results_dir"
        ) from None
    try:
        yield
    finally:
        lock.release()
