"""Tasks that only intersect ids: `launch_task` returns the common ids and writes them to CSV."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import psi
from heterofed.errors import ConfigError
from heterofed.events import Callback
from heterofed.intersection.tasks import (
    CountCollaboratorTask,
    CountHostTask,
    PSICollaboratorTask,
    PSIHostTask,
    PSITask,
)
from heterofed.protocol.plan import KeyBits, PSIProtocol
from heterofed.runs.engine import Engine
from heterofed.runs.lifecycle import Lifecycle
from heterofed.runs.run import Resume, Run
from heterofed.runs.scheduler import Scheduler
from heterofed.runs.settings import LeadSettings, Settings, Shown

Write: TypeAlias = "Callable[[Run, psi.OwnIds, array[int]], None]"
"""Writes the common ids, which stand at these positions among the own ones."""


class PSIEngine(Engine[Settings]):
    """What is behind a scheduler that only intersects ids.

    Args:
        settings: what the constructor was given.
        ids: that it was given, too.
        intersecting: makes the task that intersects ids.
        counting: makes the task that counts common ids.

    Attributes:
        write: what is done with the result instead of `intersection.csv`, where it is given.
    """

    def __init__(
        self,
        settings: Settings,
        ids: Iterable[str] | None,
        intersecting: Callable[[Any], PSITask],
        counting: Callable[[Any], CountHostTask | CountCollaboratorTask],
    ) -> None:
        super().__init__(settings)
        self.ids, self.intersecting, self.counting = ids, intersecting, counting
        self.write: Write | None = None


class PSIScheduler(Scheduler):
    """What both roles share: ids in, `intersection.csv` out."""

    _heterofed: PSIEngine

    def load_local_ids(self) -> Iterable[str]:
        """Hook: this party's ids; by default those given to the constructor.

        Returns:
            Any iterable of unique strings, at least one: many are read as they are needed.
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
            task_id: the same at every party; parties on one machine find each other by it.
            resume: "auto" goes on with an interrupted run where all parties can; "never" begins
                anew; "require" does nothing else than go on.
            callbacks: further callables that get the events of this launch.
            watch: whether to serve a live page of the task until the launch ends; its address is
                printed to stderr. It needs the extra `watch`.

        Returns:
            The ids that all parties have, sorted; also written to `intersection.csv` (column `id`)
            in the results folder.

        Raises:
            ConfigError: something at this party cannot work; nothing was done.
            TaskFailed: the task could not go on; a `TaskAborted` where another party ended it.
        """
        task = self._heterofed.intersecting(self)
        if self._heterofed.write is not None:  # then no folder of results is left
            task.write, task.is_reported = self._heterofed.write, False
        Lifecycle(task).launch(task_id, resume, callbacks=callbacks, watch=watch)
        return task.common

    def count_common(self, task_id: str) -> dict[str, int]:
        """Count how many ids this party shares with the others, in place of `launch_task`.

        No party learns which ids they are. All parties call this method, and each needs at least 20
        ids. An initiator counts with each of its collaborators. An interrupted count begins anew.

        Args:
            task_id: the same at every party.

        Returns:
            The number of common ids, by the other party's feature key.

        Raises:
            ConfigError: something at this party cannot work; nothing was done.
            TaskFailed: the task could not go on; a `TaskAborted` where another party ended it.
        """
        task = self._heterofed.counting(self)
        Lifecycle(task).launch(task_id, "never")
        return task.sizes


class RSAPSIInitiatorScheduler(PSIScheduler):
    """The party that asks: learns the matches first, and at how many parties it asks.

    Args:
        feature_key: this party's unique key in the task.
        name: shown in logs and used for the results folder; the feature key by default.
        ids: this party's ids, any iterable (see `psi.column` for files), unless a subclass defines
            `load_local_ids`.
        collaborators: whom to wait for: how many, or their feature keys.
        calculation_timeout: longest silence (s) of a party that computes; 0: no limit.
        schedule_timeout: longest silence (s) in steps where a party computes nothing.
        data_channel_timeout: (seconds to establish a link, seconds without a byte of a message).
        join_timeout: seconds to wait for the parties to come online; 0: for ever.
        insecure: run a task whose file lists no keys over TCP in the clear, where anybody on the
            way can read and change everything. For experiments on a network of your own.
        psi_protocol: "rsa" (blind signatures) or "ecdh" (an OPRF over ristretto255, faster).
        psi_bits: size of the RSA keys, 2048, 3072 or 4096.
        max_peer_ids: most ids that any party, this one too, may have intersected; a Collaborator
            in all runs of a task together, those of unchanged sets counted once.
        agreed: settings of a layer above that all parties share, such as how ids are written, as
            strings by name. They are announced before any id is read.
        results_dir: parent of `<task_id>/<name>`.
        callbacks: get every event of the task.
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
        max_peer_ids: int = 10_000_000,
        agreed: Mapping[str, str] | None = None,
        results_dir: str | Path = "heterofed_runs",
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        settings = LeadSettings.given(locals())
        self._heterofed = PSIEngine(settings, ids, PSIHostTask, CountHostTask)


class RSAPSICollaboratorScheduler(PSIScheduler):
    """A party that answers: learns the final matches.

    Args:
        feature_key: this party's unique key in the task.
        name: shown in logs and used for the results folder; the feature key by default.
        ids: this party's ids, any iterable (see `psi.column` for files), unless a subclass defines
            `load_local_ids`.
        max_peer_ids: ids that the initiator may have intersected in all runs of a task together,
            those of unchanged sets counted once.
        schedule_timeout: longest silence (s) of the initiator before its plan is known.
        data_channel_timeout: (seconds to establish a link, seconds without a byte of a message).
        join_timeout: seconds to wait for the initiator to come online; 0: for ever.
        insecure: run a task whose file lists no keys over TCP in the clear, where anybody on the
            way can read and change everything. For experiments on a network of your own.
        agreed: settings of a layer above that the initiator must announce likewise; others of its
            are read as `self.agreed`.
        results_dir: parent of `<task_id>/<name>`.
        callbacks: get every event of the task.
    """

    def __init__(
        self,
        feature_key: str,
        name: str | None = None,
        *,
        ids: Iterable[str] | None = None,
        max_peer_ids: int = 10_000_000,
        schedule_timeout: float = 30,
        data_channel_timeout: tuple[float, float] = (30, 60),
        join_timeout: float = 3600,
        insecure: bool = False,
        agreed: Mapping[str, str] | None = None,
        results_dir: str | Path = "heterofed_runs",
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        settings = Settings.given(locals())
        self._heterofed = PSIEngine(settings, ids, PSICollaboratorTask, CountCollaboratorTask)


def write_by(scheduler: PSIScheduler, write: Write) -> None:
    """Have a scheduler write its result otherwise than to `intersection.csv`."""
    scheduler._heterofed.write = write
