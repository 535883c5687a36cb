"""Defines the tasks that only intersect or count ids, or ask a stored set, in each role.

An intersection writes `intersection.csv`.
"""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, ClassVar

import psi
from heterofed.errors import ConfigError, DataError, PSIFailedError
from heterofed.events import Callback
from heterofed.intersection.collaborator import common_as_collaborator
from heterofed.intersection.host import common_as_host
from heterofed.intersection.ids import own_ids
from heterofed.intersection.overlap import count_as_collaborator, count_as_host
from heterofed.intersection.stored import answer_from_stored_set, ask_stored_set
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.protocol.messages import Finish
from heterofed.protocol.plan import Plan
from heterofed.rendezvous.agreement import JoinPurpose
from heterofed.reporting.results import write_whole
from heterofed.runs.run import Run
from heterofed.runs.scheduler import Scheduler
from heterofed.runs.task import CollaboratorTask, HostTask, Task
from heterofed.runs.unfinished import begin, goes_on

OVER = (PSIFailedError, DataError, ConfigError)
"""After these errors, the intersection cannot be resumed; after a lost party it can."""


class PSITask(Task):
    """The base of both roles.

    Attributes:
        common: the sorted ids that all parties have, after they were found.
        write: is called with the result to write it.
        copy: is called before with this party's ids and the positions of the common ones, to copy
            its rows; None by default.
    """

    purpose: ClassVar[JoinPurpose] = "psi"
    goes_on = True

    def __init__(self, owner: Scheduler) -> None:
        super().__init__(owner)
        self.common: list[str] = []
        self.write: Callable[[Run, psi.OwnIds, array[int]], None] = self._write_csv
        self.copy: Callable[[psi.OwnIds, array[int]], None] | None = None

    def open_folder(self, run: Run) -> None:
        """Make the results folder of a new run; a resumed run has one already."""
        if not goes_on(run):
            if not run.store.has_checkpoints:  # those of a training are moved aside
                run.store.clear()
            super().open_folder(run)
            begin(run)

    def failed(self, run: Run, error: BaseException) -> None:
        """Forget the run if the intersection cannot be resumed after this error."""
        if isinstance(error, OVER) and run.record is not None:  # else the store is another run's
            run.store.clear()

    def own_ids(self, run: Run) -> psi.OwnIds:
        """Return this party's checked ids."""
        with run.party.in_phase("prepare"):
            return own_ids(self.hooks.call("load_local_ids"))

    def keep(self, run: Run, ids: psi.OwnIds, common: array[int]) -> None:
        """Write the result; `common` holds positions among `ids`."""
        run.result.ids, run.result.own_ids = len(common), len(ids)
        if self.copy is not None:
            self.copy(ids, common)
        self.write(run, ids, common)

    def _write_csv(self, run: Run, ids: psi.OwnIds, common: array[int]) -> None:
        result = run.result
        self.common = sorted(ids.pick(common))
        path = result.folder / "intersection.csv"
        result.metrics["intersection"] = write_whole(path, self._write_common)

    def _write_common(self, file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        csv.writer(text).writerows([["id"], *([each] for each in self.common)])
        text.detach()  # flushes, and leaves it to the caller to close the file


class PSIHostTask(PSITask, HostTask):
    """The task of the initiator, which requests the intersection."""

    def make_plan(self, run: Run, collaborators: tuple[str, ...]) -> Plan:  # noqa: ARG002
        """Return the plan that the initiator announces."""
        plan: Plan = self.settings.plan(collaborators, psi_parties=self.settings.psi_parties)
        return plan

    @contextmanager
    def meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        """Wait for all parties; a party that missed the result can have it computed again."""
        run.ended = None
        with super().meet(run, callbacks) as party:
            yield party

    def perform(self, run: Run) -> None:
        """Do the task, from the first phase after the join to its finish."""
        self.find(run, self.own_ids(run))
        party = run.party
        with party.in_phase("finish"):
            party.broadcast(Finish(0))
            for peer in list(party.peers.values()):
                party.take_leave(peer)

    def find(self, run: Run, ids: psi.OwnIds) -> None:
        """Find the common ids or their number, and store the result."""
        self.keep(run, ids, common_as_host(run, ids))


class PSICollaboratorTask(PSITask, CollaboratorTask):
    """The task of a party that answers the initiator."""

    def perform(self, run: Run) -> None:
        """Do the task, from the first phase after the join to its finish."""
        party, ids = run.party, self.own_ids(run)
        (initiator,) = party.peers.values()
        self.find(run, initiator, ids)
        self.say_goodbye(run, initiator)

    def say_goodbye(self, run: Run, initiator: Peer) -> None:
        """Wait until the initiator has its result, and leave."""
        run.party.take(initiator, Finish)
        with run.party.in_phase("finish"):
            run.party.leave(initiator)

    def find(self, run: Run, initiator: Peer, ids: psi.OwnIds) -> None:
        """Find the common ids or their number, and store the result."""
        most = self.settings.max_peer_ids
        self.keep(run, ids, common_as_collaborator(run, initiator, ids, max_peer_ids=most))


class CountHostTask(PSIHostTask):
    """The task of the initiator, which asks how many ids it shares with each other party.

    Attributes:
        sizes: the number of common ids, by the other party's feature key.
    """

    purpose = "overlap"
    subfolder = "overlap"

    def __init__(self, owner: Scheduler) -> None:
        super().__init__(owner)
        self.sizes: dict[str, int] = {}

    def find(self, run: Run, ids: psi.OwnIds) -> None:
        """Find the common ids or their number, and store the result."""
        self.sizes = count_as_host(run, ids)


class CountCollaboratorTask(PSICollaboratorTask):
    """The task of a party that counts with the initiator how many ids they share.

    Attributes:
        sizes: the number of common ids, by the other party's feature key.
    """

    purpose = "overlap"
    subfolder = "overlap"

    def __init__(self, owner: Scheduler) -> None:
        super().__init__(owner)
        self.sizes: dict[str, int] = {}

    def find(self, run: Run, initiator: Peer, ids: psi.OwnIds) -> None:
        """Find the common ids or their number, and store the result."""
        most = self.settings.max_peer_ids
        self.sizes = {initiator.name: count_as_collaborator(run, initiator, ids, max_peer_ids=most)}


class StoredHostTask(PSIHostTask):
    """The task of a party that asks a stored set which of its own ids are in it.

    Args:
        owner: the scheduler.
        name: the name of the stored set, on which both parties have agreed.
    """

    purpose = "stored"
    subfolder = "stored"
    goes_on = False

    def __init__(self, owner: Scheduler, name: str) -> None:
        super().__init__(owner)
        self._name = name

    def make_plan(self, run: Run, collaborators: tuple[str, ...]) -> Plan:
        """Return the plan that the initiator announces.

        Raises:
            ConfigError: several parties would be asked.
        """
        if len(collaborators) != 1:
            raise ConfigError(
                "a stored set is asked at one party; make a task file with its owner alone as the"
                " collaborator"
            )
        return super().make_plan(run, collaborators)

    def find(self, run: Run, ids: psi.OwnIds) -> None:
        """Find the ids that the stored set has, and store the result."""
        self.keep(run, ids, ask_stored_set(run, ids, self._name))


class StoredCollaboratorTask(PSICollaboratorTask):
    """The task of a party that answers a request to its stored set.

    Args:
        owner: the scheduler.
        stored: the stored set.
        ids: the owner's ids, if the positions must be among them.

    Attributes:
        asker: the party that asked, after the request.
        matched: the positions of the own ids that this party has too.
    """

    purpose = "stored"
    subfolder = "stored"
    goes_on = False

    def __init__(
        self, owner: Scheduler, stored: psi.StoredSet, ids: psi.OwnIds | None = None
    ) -> None:
        super().__init__(owner)
        self._stored, self._ids = stored, ids
        self.asker, self.matched = "", array("Q")

    def perform(self, run: Run) -> None:
        """Do the task, from the first phase after the join to its finish."""
        (asker,) = run.party.peers.values()
        self.asker = asker.name
        self.matched = answer_from_stored_set(run, asker, self._stored, self._ids)
        run.result.ids, run.result.own_ids = len(self.matched), self._stored.count
        self.say_goodbye(run, asker)
