"""Tasks that only intersect ids: `launch_task` returns the common ids and writes them to CSV."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import psi
from heterofed.errors import ConfigError
from heterofed.events import Callback
from heterofed.intersection.host import OVER, common_as_collaborator, common_as_host, own_ids
from heterofed.messaging.party import Party
from heterofed.protocol.messages import Finish
from heterofed.protocol.plan import KeyBits, Plan, PSIProtocol
from heterofed.reporting.results import write_whole
from heterofed.runs.connect import as_collaborator, as_host, check_collaborators, check_psi
from heterofed.runs.lifecycle import Scheduler
from heterofed.runs.run import Resume, Run, begin, earlier, goes_on, party_of
from heterofed.runs.settings import Settings, check_seconds


class PSIScheduler(Scheduler):
    """What both roles share: ids in, `intersection.csv` out."""

    _heterofed_ids: Iterable[str] | None

    def load_local_ids(self) -> Iterable[str]:
        """Hook: this party's ids; by default those given to the constructor.

        Returns:
            Any iterable of unique strings, at least one: many are read as they are needed.
        """
        if self._heterofed_ids is None:
            raise ConfigError("give the constructor ids=..., or define load_local_ids")
        return self._heterofed_ids

    def launch_task(self, task_id: str, resume: Resume = "auto") -> list[str]:
        """Run the task in this process until it ends.

        Args:
            task_id: the same at every party; parties on one machine find each other by it.
            resume: "auto" goes on with an interrupted run where all parties can; "never" begins
                anew; "require" does nothing else than go on.

        Returns:
            The ids that all parties have, sorted; also written to `intersection.csv` (column `id`)
            in the results folder.

        Raises:
            ConfigError: something at this party cannot work; nothing was done.
            TaskFailed: the task could not go on; a `TaskAborted` where another party ended it.
        """
        self._heterofed_common: list[str] = []
        self._heterofed_launch(task_id, resume)
        return self._heterofed_common

    def _heterofed_open_folder(self, run: Run) -> None:
        if not goes_on(run):
            run.store.clear()
            super()._heterofed_open_folder(run)
            begin(run)

    def _heterofed_end_badly(self, run: Run, error: BaseException) -> None:
        if isinstance(error, OVER):
            run.store.clear()
        super()._heterofed_end_badly(run, error)

    def _heterofed_own_ids(self, run: Run) -> psi.OwnIds:
        with party_of(run).in_phase("prepare"):
            return own_ids(self._heterofed_call_hook("load_local_ids", self.load_local_ids))

    def _heterofed_keep(self, run: Run, ids: psi.OwnIds, common: array[int]) -> None:
        """Do with the result what this task is for; `common` holds positions among `ids`."""
        run.result.ids, run.result.own_ids = len(common), len(ids)
        self._heterofed_common = sorted(ids.pick(common))
        run.result.metrics["intersection"] = write_whole(
            run.result.folder / "intersection.csv", self._heterofed_write_common
        )

    def _heterofed_write_common(self, file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        csv.writer(text).writerows([["id"], *([each] for each in self._heterofed_common)])
        text.detach()  # flushes; whoever opened the file closes it


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
        results_dir: str | Path = "heterofed_runs",
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        self._heterofed_settings = Settings(
            feature_key=feature_key,
            name=name,
            schedule_timeout=schedule_timeout,
            data_channel_timeout=data_channel_timeout,
            join_timeout=join_timeout,
            insecure=insecure,
            results_dir=Path(results_dir),
            callbacks=tuple(callbacks),
        )
        self._heterofed_ids = ids
        self._heterofed_collaborators = collaborators
        self._heterofed_calculation_timeout = calculation_timeout
        self._heterofed_psi_protocol = psi_protocol
        self._heterofed_psi_bits = psi_bits
        self._heterofed_max_peer_ids = max_peer_ids

    def validate_context(self) -> None:
        """Hook: check settings before anything else; call `super().validate_context()`."""
        super().validate_context()
        check_seconds("calculation_timeout", self._heterofed_calculation_timeout)
        check_psi(
            self._heterofed_psi_protocol, self._heterofed_psi_bits, self._heterofed_max_peer_ids
        )
        check_collaborators(self._heterofed_collaborators, self._heterofed_settings.feature_key)

    @contextmanager
    def _heterofed_meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        run.ended = None  # whoever missed the result may have it found again
        with as_host(
            run,
            self._heterofed_settings,
            callbacks,
            purpose="psi",
            expected=self._heterofed_collaborators,
            timeouts=self._heterofed_timeouts(self._heterofed_calculation_timeout),
            make_plan=self._heterofed_make_plan,
            earlier=earlier(run),
        ) as party:
            yield party

    def _heterofed_make_plan(self, collaborators: tuple[str, ...]) -> Plan:
        return Plan(
            host=self._heterofed_settings.feature_key,
            collaborators=collaborators,
            calculation_timeout=float(self._heterofed_calculation_timeout),
            schedule_timeout=float(self._heterofed_settings.schedule_timeout),
            psi_protocol=self._heterofed_psi_protocol,
            psi_bits=self._heterofed_psi_bits,
            max_peer_ids=self._heterofed_max_peer_ids,
        )

    def _heterofed_perform(self, run: Run) -> None:
        party = party_of(run)
        ids = self._heterofed_own_ids(run)
        self._heterofed_keep(run, ids, common_as_host(run, ids))
        with party.in_phase("finish"):
            party.broadcast(Finish(0))
            for peer in list(party.peers.values()):
                party.take_leave(peer)


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
        results_dir: str | Path = "heterofed_runs",
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        self._heterofed_settings = Settings(
            feature_key=feature_key,
            name=name,
            schedule_timeout=schedule_timeout,
            data_channel_timeout=data_channel_timeout,
            join_timeout=join_timeout,
            insecure=insecure,
            results_dir=Path(results_dir),
            callbacks=tuple(callbacks),
        )
        self._heterofed_ids = ids
        self._heterofed_max_peer_ids = max_peer_ids

    @contextmanager
    def _heterofed_meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        with as_collaborator(
            run,
            self._heterofed_settings,
            callbacks,
            purpose="psi",
            timeouts=self._heterofed_timeouts(),
            trainable=False,
            earlier=earlier(run),
        ) as party:
            yield party

    def _heterofed_perform(self, run: Run) -> None:
        party = party_of(run)
        (initiator,) = party.peers.values()
        ids = self._heterofed_own_ids(run)
        common = common_as_collaborator(
            run, initiator, ids, max_peer_ids=self._heterofed_max_peer_ids
        )
        self._heterofed_keep(run, ids, common)
        party.take(initiator, Finish)
        with party.in_phase("finish"):
            party.leave(initiator)
