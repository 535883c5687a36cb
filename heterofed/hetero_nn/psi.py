"""Defines tasks that only intersect ids; `launch_task` returns the common ids and writes a CSV
file.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import psi
from heterofed.errors import ConfigError
from heterofed.events import Callback
from heterofed.intersection.matching_partitions import copier
from heterofed.intersection.tasks import (
    CountCollaboratorTask,
    CountHostTask,
    PSICollaboratorTask,
    PSIHostTask,
    PSITask,
    StoredCollaboratorTask,
    StoredHostTask,
)
from heterofed.protocol.plan import KeyBits, PSIParties, PSIProtocol
from heterofed.reporting.task_result import TaskResult
from heterofed.runs.engine import Engine
from heterofed.runs.lifecycle import Lifecycle
from heterofed.runs.run import Resume, Run
from heterofed.runs.scheduler import Scheduler
from heterofed.runs.settings import LeadSettings, Settings, Shown, given_path

AnyTask = TypeVar("AnyTask", bound=PSITask)
Write: TypeAlias = "Callable[[Run, psi.OwnIds, array[int]], None]"
"""Writes the common ids, given by their positions among the party's own ids."""


class Answered(NamedTuple):
    """Holds the outcome of one request to a stored set, at its owner.

    Attributes:
        result: the result of the task.
        asker: the feature key of the party that asked.
        matched: the positions of the own ids that this party has too.
    """

    result: TaskResult
    asker: str
    matched: array[int]


class PSIEngine(Engine[Settings]):
    """The engine of a scheduler that only intersects ids.

    Args:
        settings: the settings from the constructor.
        ids: the ids from the constructor.
        intersecting: makes the task that intersects ids.
        counting: makes the task that counts common ids.
        rows_out: the place for the rows with common ids, or None.

    Attributes:
        write: writes the result in place of `intersection.csv`; None by default.
    """

    def __init__(
        self,
        settings: Settings,
        ids: Iterable[str] | None,
        intersecting: Callable[[Any], PSITask],
        counting: Callable[[Any], CountHostTask | CountCollaboratorTask],
        rows_out: str | Path | None = None,
    ) -> None:
        super().__init__(settings)
        self.rows_out = rows_out
        self.ids, self.intersecting, self.counting = ids, intersecting, counting
        self.write: Write | None = None

    def prepare(self, task: AnyTask) -> AnyTask:
        """Tell a task how its result is written, and return it.

        Raises:
            ConfigError: the rows with common ids could not be written.
        """
        if self.write is not None:
            task.write = self.write
        if self.rows_out is not None:
            task.copy = copier(self.ids, given_path("rows_out", self.rows_out), "rows_out").copy
        return task


class PSIScheduler(Scheduler):
    """The base of both roles, which read ids and write `intersection.csv`."""

    _heterofed: PSIEngine

    def load_local_ids(self) -> Iterable[str]:
        """Hook: return this party's ids; by default those given to the constructor.

        Returns:
            Any iterable of unique strings, at least one. They are read as they are needed, so there
            may be many.
        """
        if self._heterofed.ids is None:
            raise ConfigError("give the constructor ids=..., or define load_local_ids")
        return self._heterofed.ids

    @Shown
    def agreed(self) -> dict[str, str]:
        """The settings that the initiator announced, or the constructor's before the plan is
        known.
        """
        agreement = self._heterofed.run.maybe_agreement if self._heterofed.run else None
        return dict(agreement.plan.agreed if agreement else self._heterofed.settings.agreed)

    def launch_task(
        self,
        task_id: str,
        resume: Resume = "auto",
        *,
        callbacks: Sequence[Callback] = (),
        watch: bool = False,
    ) -> list[str]:
        """Run the task in this process until it ends.

        Args:
            task_id: the id of the task, which is the same at every party. Parties on one machine
                find each other by it.
            resume: how to treat an interrupted run. "auto" resumes it if all parties can; "never"
                starts anew; "require" raises an error if it cannot be resumed.
            callbacks: further callables that get the events of this launch.
            watch: whether to serve a live page of the task until the launch ends. Its address is
                printed to stderr. It needs the extra `watch`.

        Returns:
            The ids that all parties have, sorted. They are also written to `intersection.csv`
            (column `id`) in the results folder.

        Raises:
            ConfigError: a setting or file of this party is wrong; nothing was done.
            TaskFailed: the task failed; it is a `TaskAborted` if another party ended it.
        """
        task = self._heterofed.prepare(self._heterofed.intersecting(self))
        if self._heterofed.write is not None:  # then no results folder is left
            task.is_reported = False
        Lifecycle(task).launch(task_id, resume, callbacks=callbacks, watch=watch)
        return task.common

    def count_common(self, task_id: str) -> dict[str, int]:
        """Count how many ids this party shares with the others, in place of `launch_task`.

        No party learns which ids they are. All parties call this method, and each needs at least 20
        ids. An initiator counts with each of its collaborators. An interrupted count starts anew.

        Args:
            task_id: the id of the task, which is the same at every party.

        Returns:
            The number of common ids, by the other party's feature key.

        Raises:
            ConfigError: a setting or file of this party is wrong; nothing was done.
            TaskFailed: the task failed; it is a `TaskAborted` if another party ended it.
        """
        task = self._heterofed.counting(self)
        Lifecycle(task).launch(task_id, "never")
        return task.sizes


class RSAPSIInitiatorScheduler(PSIScheduler):
    """The requesting party, which learns the matches first and may request at several parties.

    Args:
        feature_key: the unique key of this party in the task.
        name: the name of this party in logs and of its results folder; the feature key by default.
        ids: this party's ids, any iterable (see `psi.column` for files), unless a subclass defines
            `load_local_ids`.
        collaborators: the number of parties to wait for, or their feature keys.
        calculation_timeout: the longest silence in seconds of a party that computes; 0 means no
            limit.
        schedule_timeout: the longest silence in seconds in steps in which a party computes nothing.
        data_channel_timeout: the longest time in seconds to establish a link, and the longest time
            in seconds without a byte while a message arrives.
        join_timeout: the longest time in seconds to wait for the parties to connect; 0 means no
            limit.
        insecure: whether to run a task whose file lists no keys. Its TCP connections are not
            encrypted, and anybody on the network can read and change everything. Use it only for
            experiments on a private network.
        psi_protocol: the protocol of the intersection: "rsa" (blind signatures) or "ecdh" (an OPRF
            over ristretto255, which is faster).
        psi_bits: the size of the RSA keys in bits: 2048, 3072 or 4096.
        psi_parties: whether the initiator learns its intersection with each Collaborator
            ("pairwise"), or only the ids that all parties have ("joint"). A joint intersection
            needs `psi_protocol="ecdh"` and two Collaborators or more.
        max_peer_ids: the most ids that any party, including this one, may have intersected. A
            Collaborator's ids are counted over all runs of a task together, and unchanged sets
            count once.
        psi_executor: computes this party's part of the intersection in other processes or on a
            cluster: "processes:8", "dask://scheduler:8786", "ray://head:10001" or any
            `concurrent.futures.Executor`. None uses threads of this process, unless the user's
            configuration names an executor.
        agreed: settings of a layer above that all parties share, as strings by name, such as the
            format of ids. They are announced before any id is read.
        results_dir: the parent of the results folder `<task_id>/<name>`.
        rows_out: the place for this party's rows whose ids all parties have, in their order, beside
            `intersection.csv`: a file in the format of the source, or a new folder if the source is
            a folder or has partitions. It needs `ids=psi.column(...)`.
        callbacks: called with every event of the task.
    """

    def __init__(
        self,
        feature_key: str,
        name: str | None = None,
        *,
        ids: Iterable[str] | None = None,
        collaborators: int | Sequence[str] = 1,
        calculation_timeout: float = 300,
        schedule_timeout: float = 30,
        data_channel_timeout: tuple[float, float] = (30, 60),
        join_timeout: float = 3600,
        insecure: bool = False,
        psi_protocol: PSIProtocol = "rsa",
        psi_bits: KeyBits = 2048,
        psi_parties: PSIParties = "pairwise",
        max_peer_ids: int = 10_000_000,
        psi_executor: Executor | str | None = None,
        agreed: Mapping[str, str] | None = None,
        results_dir: str | Path = "heterofed_runs",
        rows_out: str | Path | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        settings = LeadSettings.given(locals())
        self._heterofed = PSIEngine(settings, ids, PSIHostTask, CountHostTask, rows_out)


class RSAPSICollaboratorScheduler(PSIScheduler):
    """The answering party, which learns the final matches.

    Args:
        feature_key: the unique key of this party in the task.
        name: the name of this party in logs and of its results folder; the feature key by default.
        ids: this party's ids, any iterable (see `psi.column` for files), unless a subclass defines
            `load_local_ids`.
        max_peer_ids: the most ids that the initiator may have intersected in all runs of a task
            together; unchanged sets count once.
        psi_executor: computes this party's part of the intersection in other processes or on a
            cluster: "processes:8", "dask://scheduler:8786", "ray://head:10001" or any
            `concurrent.futures.Executor`. None uses threads of this process, unless the user's
            configuration names an executor.
        psi_key_leaves: whether this party's secret key of an intersection may be sent to an
            executor on other machines. Otherwise such an executor is refused.
        schedule_timeout: the longest silence in seconds of the initiator before its plan is known.
        data_channel_timeout: the longest time in seconds to establish a link, and the longest time
            in seconds without a byte while a message arrives.
        join_timeout: the longest time in seconds to wait for the initiator to connect; 0 means no
            limit.
        insecure: whether to run a task whose file lists no keys. Its TCP connections are not
            encrypted, and anybody on the network can read and change everything. Use it only for
            experiments on a private network.
        agreed: settings of a layer above that the initiator must announce too. Its other settings
            can be read as `self.agreed`.
        results_dir: the parent of the results folder `<task_id>/<name>`.
        rows_out: the place for this party's rows whose ids all parties have, in their order, beside
            `intersection.csv`: a file in the format of the source, or a new folder if the source is
            a folder or has partitions. It needs `ids=psi.column(...)`.
        callbacks: called with every event of the task.
    """

    def __init__(
        self,
        feature_key: str,
        name: str | None = None,
        *,
        ids: Iterable[str] | None = None,
        max_peer_ids: int = 10_000_000,
        psi_executor: Executor | str | None = None,
        psi_key_leaves: bool = False,
        schedule_timeout: float = 30,
        data_channel_timeout: tuple[float, float] = (30, 60),
        join_timeout: float = 3600,
        insecure: bool = False,
        agreed: Mapping[str, str] | None = None,
        results_dir: str | Path = "heterofed_runs",
        rows_out: str | Path | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        settings = Settings.given(locals())
        self._heterofed = PSIEngine(
            settings, ids, PSICollaboratorTask, CountCollaboratorTask, rows_out
        )


def write_by(scheduler: PSIScheduler, write: Write) -> None:
    """Make a scheduler write its result in another way than to `intersection.csv`."""
    scheduler._heterofed.write = write


def ask_stored(scheduler: RSAPSIInitiatorScheduler, task_id: str, name: str) -> TaskResult:
    """Ask a stored set which ids of this party it has, in place of `launch_task`.

    Args:
        scheduler: the scheduler of the party that asks.
        task_id: the id of the task, which is the same at both parties.
        name: the name of the stored set, on which both parties have agreed.

    Raises:
        ConfigError: a setting or file of this party is wrong; nothing was done.
        TaskFailed: the request failed; it can be made again.
    """
    task = scheduler._heterofed.prepare(StoredHostTask(scheduler, name))
    return Lifecycle(task).launch(task_id, "never")


def answer_stored(
    scheduler: RSAPSICollaboratorScheduler,
    task_id: str,
    stored: psi.StoredSet,
    ids: psi.OwnIds | None = None,
) -> Answered:
    """Answer one request to a stored set, in place of `launch_task`.

    Args:
        scheduler: the scheduler of the owner.
        task_id: the id of the task, which is the same at both parties.
        stored: the stored set.
        ids: the owner's ids, if the positions must be among them. A request is refused if the set
            was created of others.

    Raises:
        ConfigError: a setting or file of this party is wrong; nothing was done.
        TaskFailed: the request failed; it can be made again.
    """
    task = StoredCollaboratorTask(scheduler, stored, ids)
    result = Lifecycle(task).launch(task_id, "never")
    return Answered(result, task.asker, task.matched)
