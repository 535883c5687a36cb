"""What a lifecycle runs: one kind of task in one role. What it does is said by its subclasses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from heterofed.errors import TaskFinishedError
from heterofed.events import Callback
from heterofed.messaging.party import Party
from heterofed.metrics import registered_metrics
from heterofed.protocol.plan import Plan
from heterofed.rendezvous.agreement import JoinPurpose
from heterofed.reporting.results import fresh_folder
from heterofed.runs.connect import as_collaborator, as_host
from heterofed.runs.engine import Engine
from heterofed.runs.hook_calls import HookCalls
from heterofed.runs.run import Run
from heterofed.runs.scheduler import Scheduler, engine_of
from heterofed.runs.unfinished import earlier


class Task(ABC):
    """One launch of one kind of task, at one party.

    Args:
        owner: the scheduler whose hooks and settings it runs with.

    Attributes:
        purpose: what the parties meet for.
        subfolder: the subfolder for results in the party's results folder; empty for none.
        goes_on: whether a run that has not ended may go on.
        is_reported: whether the launch ends with a report; by default where it has no subfolder,
            since the report is of the run that trained.
        run: of this launch; None before.
    """

    purpose: ClassVar[JoinPurpose]
    subfolder: ClassVar[str] = ""
    goes_on: ClassVar[bool] = False

    def __init__(self, owner: Scheduler) -> None:
        self.owner: Any = owner
        self.engine: Engine[Any] = engine_of(owner)
        self.is_reported = not self.subfolder
        self.run: Run | None = None
        self.hooks: HookCalls

    @property
    def settings(self) -> Any:
        """What the scheduler's constructor was given."""
        return self.engine.settings

    def results_folder(self, task_id: str) -> Path:
        """Where this task writes its results."""
        folder: Path = self.settings.results_dir.absolute() / task_id / self.settings.shown_name
        return folder / self.subfolder

    @property
    def folder_wait(self) -> float:
        """Seconds to wait for another process that writes to the results folder; -1: for ever."""
        return 0.0

    # -- in the order in which a lifecycle calls them ----------------------------------------

    def begin(self, run: Run) -> None:
        """The launch has begun; nothing is checked yet."""
        self.run = run
        self.hooks = HookCalls(self.owner, run, self.settings.shown_name)

    def check(self, run: Run) -> None:  # noqa: B027
        """Refuse what cannot work, once the user's own checks have passed.

        Raises:
            ConfigError: naming it.
        """

    @abstractmethod
    def meet(self, run: Run, callbacks: Sequence[Callback]) -> AbstractContextManager[Party]:
        """Find the other parties; the lifecycle closes the party."""

    def open_folder(self, run: Run) -> None:
        """Make the results folder for what was agreed on: a new run, unless it goes on."""
        fresh_folder(run.result.folder)
        self.open_metrics(run)

    @abstractmethod
    def perform(self, run: Run) -> None:
        """Do the task, from the first phase after the join to its finish."""

    def settle(self, run: Run) -> None:
        """Complete this party's part of a run that all others have ended."""
        raise TaskFinishedError(party=run.result.party)

    def failed(self, run: Run, error: BaseException) -> None:  # noqa: B027
        """Tidy up after what has ended the task; the other parties are told next."""

    # -- for subclasses ----------------------------------------------------------------------

    def open_metrics(self, run: Run) -> None:
        """Open the metrics sets that the user's class registered."""
        run.open_all_metrics(registered_metrics(type(self.owner)))

    def sharing(self, run: Run) -> AbstractContextManager[None]:  # noqa: ARG002
        """What surrounds the work of parties that met."""
        return nullcontext()


class HostTask(Task):
    """A task at the party that the others join."""

    def make_plan(self, run: Run, collaborators: tuple[str, ...]) -> Plan:  # noqa: ARG002
        """What the Host announces."""
        plan: Plan = self.settings.plan(collaborators)
        return plan

    def expected(self) -> Sequence[str] | int | None:
        """Whom to wait for; None: those of the settings."""
        return None

    def is_partial(self) -> bool:
        """Whether the task begins without parties that are missing."""
        return False

    @contextmanager
    def meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        """Wait until everybody is there."""
        meeting = as_host(
            run,
            self.settings,
            callbacks,
            purpose=self.purpose,
            make_plan=partial(self.make_plan, run),
            expected=self.expected(),
            earlier=earlier(run) if self.goes_on else None,
            partial=self.is_partial(),
        )
        with meeting as party, self.sharing(run):
            yield party


class CollaboratorTask(Task):
    """A task at a party that joins the Host's."""

    def heard(self, callbacks: Sequence[Callback]) -> Sequence[Callback]:
        """The callbacks, as they are to hear of this task."""
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
            earlier=earlier(run) if self.goes_on else None,
        )
        with meeting as party, self.sharing(run):
            yield party
