"""Defines the steps of a task that a lifecycle runs; a subclass is one kind of task in one role."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from heterofed.errors import TaskFinishedError
from heterofed.events import Callback
from heterofed.messaging.party import Party
from heterofed.metrics import registered_metrics
from heterofed.protocol.plan import Plan
from heterofed.protocol.states import Role
from heterofed.rendezvous.agreement import Earlier, JoinPurpose
from heterofed.reporting.results import fresh_folder
from heterofed.runs.connect import as_collaborator, as_host
from heterofed.runs.engine import Engine
from heterofed.runs.hook_calls import HOOKS, HookCalls
from heterofed.runs.run import Run
from heterofed.runs.scheduler import Scheduler, engine_of
from heterofed.runs.term_limits import limit_bytes
from heterofed.runs.unfinished import earlier


class Task(ABC):
    """One launch of one kind of task, at one party.

    Args:
        owner: the scheduler whose hooks and settings the task uses.

    Attributes:
        purpose: the purpose for which the parties meet.
        subfolder: the subfolder for results in the party's results folder; empty for none.
        hook_arguments: the arguments of each hook, in order.
        goes_on: whether an unfinished run may be resumed.
        is_reported: whether the launch ends with a report. This is the default without a subfolder,
            since the report describes the run that trained.
        role: the role of this party.
        run: the run of this launch; None before it.
    """

    purpose: ClassVar[JoinPurpose]
    role: ClassVar[Role | None] = None
    subfolder: ClassVar[str] = ""
    hook_arguments: ClassVar[Mapping[str, tuple[str, ...]]] = HOOKS
    goes_on: ClassVar[bool] = False

    def __init__(self, owner: Scheduler) -> None:
        self.owner: Any = owner
        self.engine: Engine[Any] = engine_of(owner)
        self.is_reported = not self.subfolder
        self.run: Run | None = None
        self.hooks: HookCalls

    @property
    def settings(self) -> Any:
        """The settings from the scheduler's constructor."""
        return self.engine.settings

    def results_folder(self, task_id: str) -> Path:
        """Return the folder to which this task writes its results."""
        folder: Path = self.settings.results_dir.absolute() / task_id / self.settings.shown_name
        return folder / self.subfolder

    @property
    def folder_wait(self) -> float:
        """The time in seconds to wait for another process that uses the results folder; -1 is
        forever.
        """
        return 0.0

    # -- in the order in which a lifecycle calls them ----------------------------------------

    def begin(self, run: Run) -> None:
        """Prepare for the launch, which has begun; nothing is checked yet."""
        self.run = run
        self.hooks = HookCalls(self.owner, run, self.settings.shown_name)

    def check(self, run: Run) -> None:  # noqa: B027
        """Refuse settings that cannot work, after the user's own checks have passed.

        Raises:
            ConfigError: a setting is wrong; the message names it.
        """

    @abstractmethod
    def meet(self, run: Run, callbacks: Sequence[Callback]) -> AbstractContextManager[Party]:
        """Find the other parties; the lifecycle closes the party that is returned."""

    def open_folder(self, run: Run) -> None:
        """Make the results folder for the agreed run; a resumed run has one already."""
        fresh_folder(run.result.folder)
        self.open_metrics(run)

    @abstractmethod
    def perform(self, run: Run) -> None:
        """Do the task, from the first phase after the join to its finish."""

    def held(self, run: Run) -> Earlier | None:
        """Return what this party holds of an earlier run with which the parties may go on."""
        return earlier(run) if self.goes_on else None

    def settle(self, run: Run) -> None:
        """Complete this party's part of a run that has ended at all other parties."""
        raise TaskFinishedError(party=run.result.party)

    def failed(self, run: Run, error: BaseException) -> None:  # noqa: B027
        """Clean up after an error that has ended the task; the other parties are told next."""

    # -- for subclasses ----------------------------------------------------------------------

    def open_metrics(self, run: Run) -> None:
        """Open the metrics sets that the user's class registered."""
        run.open_all_metrics(registered_metrics(type(self.owner)))

    def sharing(self, run: Run) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return the context manager in which parties that have met do their work."""
        return nullcontext()


class HostTask(Task):
    """A task at the party that the others join."""

    role = Role.HOST

    def make_plan(self, run: Run, collaborators: tuple[str, ...]) -> Plan:  # noqa: ARG002
        """Return the plan that the Host announces."""
        plan: Plan = self.settings.plan(collaborators)
        return plan

    def expected(self) -> Sequence[str] | int | None:
        """Return the Collaborators to wait for, or None for those of the settings."""
        return None

    def approve(self, run: Run, plan: Plan) -> None:
        """Refuse a plan to which the terms were applied, before this party waits for others.

        Raises:
            ConfigError: the terms do not allow this task.
        """

    def is_partial(self) -> bool:
        """Return whether the task begins without parties that are missing."""
        return False

    @contextmanager
    def meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        """Wait until all parties are connected."""
        meeting = as_host(
            run,
            self.settings,
            callbacks,
            purpose=self.purpose,
            make_plan=partial(self.make_plan, run),
            expected=self.expected(),
            earlier=self.held(run),
            partial=self.is_partial(),
            approve=partial(self.approve, run),
        )
        with meeting as party, self.sharing(run):
            limit_bytes(run)
            yield party


class CollaboratorTask(Task):
    """A task at a party that joins the Host."""

    role = Role.COLLABORATOR

    def heard(self, callbacks: Sequence[Callback]) -> Sequence[Callback]:
        """Return the callbacks that get the events of this task."""
        return callbacks

    def is_trainable(self) -> bool:
        """Whether this party's features take gradients."""
        return False

    @contextmanager
    def meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        """Find the Host."""
        meeting = as_collaborator(
            run,
            self.settings,
            self.heard(callbacks),
            purpose=self.purpose,
            trainable=self.is_trainable(),
            earlier=self.held(run),
        )
        with meeting as party, self.sharing(run):
            limit_bytes(run)
            yield party
