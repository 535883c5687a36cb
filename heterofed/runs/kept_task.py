"""Defines what all tasks with rounds and checkpoints do alike: begin, go on, and end."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

from heterofed.errors import PeerLostError, RemoteProtocolError
from heterofed.events import RoundEnded
from heterofed.messaging.aborts import BETWEEN, lost, unlawful
from heterofed.messaging.peer import Mail, Peer
from heterofed.protocol.messages import CheckpointHeld, Finish, Message, RoundEnd
from heterofed.runs.checkpointing import Checkpointing
from heterofed.runs.model_keeping import ModelKeeping
from heterofed.runs.receipt import opened_receipt
from heterofed.runs.records.recorder import opened_record
from heterofed.runs.return_limit import ReturnLimit
from heterofed.runs.run import Run
from heterofed.runs.run_folder import open_run_folder
from heterofed.runs.state import RunState
from heterofed.runs.task import Task
from heterofed.runs.unfinished import awaited


class KeptTask(Task):
    """A task that is kept, so that it can go on after it was interrupted."""

    goes_on = True
    keeping: ModelKeeping

    @property
    def checkpoints(self) -> Checkpointing:
        """The object that writes checkpoints, and resumes from one."""
        return self.keeping.checkpoints

    @abstractmethod
    def make_half(self, run: Run) -> None:
        """Make the objects of this party in one run, `keeping` among them."""

    def open_folder(self, run: Run) -> None:
        """Make the results folder of the resumed or new run."""
        open_run_folder(run, self.limit(run), lambda: self._start_over(run))
        run.receipt = opened_receipt(run)
        run.recorder = opened_record(run, self.settings)

    def settle(self, run: Run) -> None:
        """Complete this party's part of a run whose last checkpoint all parties hold."""
        run.receipt = opened_receipt(run)
        self.checkpoints.settle()
        run.receipt.end()
        run.receipt.seal()

    def failed(self, run: Run, error: BaseException) -> None:
        """Write into the receipt what has ended the run."""
        with run.harmless("the receipt"):
            run.receipt.stop(error)

    def limit(self, run: Run) -> ReturnLimit:
        """Return the limit on rollbacks."""
        return ReturnLimit(run, self.settings.max_rollbacks, self.settings.shown_name)

    def next_of(self, run: Run, host: Peer, expected: Sequence[type[Message]]) -> Mail:
        """Wait for the Host's next message between two phases."""
        run.party.phase = BETWEEN
        return run.party.take(host, *expected)

    @staticmethod
    def unlawful(peer: Peer, phase: str, what: str) -> RemoteProtocolError:
        """Return the error for a peer that did `what`, which the protocol does not allow."""
        return unlawful(peer.name, phase, what)

    def _start_over(self, run: Run) -> None:
        """Forget what an earlier attempt of this launch has made; what was made before it stays."""
        if run.waits:
            self.keeping.leave()
            run.state = RunState()
            self.make_half(run)
        run.metrics.clear()
        run.result.models.clear()
        run.round = run.batch = 0
        self.open_metrics(run)


def close_round_as_host(
    run: Run, checkpoints: Checkpointing, *, last: bool, before: Callable[[], object]
) -> None:
    """Let every party complete a round and write its checkpoint, and wait until all hold it.

    Args:
        run: the run of the Host.
        checkpoints: writes the Host's checkpoint.
        last: whether this was the last round.
        before: called before the Host writes its own checkpoint.
    """
    party = run.party
    best, run.state.is_best = run.state.is_best, False
    with party.in_phase("checkpoint", round_number=run.round):
        party.broadcast(RoundEnd(run.round, best, last))
        before()
        checkpoints.close_round(best=best, last=last)
        for peer in party.peers.values():
            party.take(peer, CheckpointHeld)


def tell_round_ended(
    run: Run, most: int, seconds: float, loss: float | None, measured: Mapping[str, float]
) -> None:
    """Tell the callbacks that a round has ended; `most` is the number of rounds of the task."""
    run.party.emit(RoundEnded(run.round, most, seconds, loss, measured))


def finish_as_host(run: Run, before: Callable[[], object] = lambda: None) -> None:
    """Tell every party that the task is complete, and wait for the goodbyes.

    Args:
        run: the run of the Host.
        before: called first, within the phase.
    """
    party = run.party
    with party.in_phase("finish"):
        before()
        run.receipt.end()
        gone = run.store.finished() or set()
        run.store.note_finished(gone)
        run.complete = True
        peers = list(party.peers.values())
        for peer in peers:
            with contextlib.suppress(PeerLostError):  # the others are told anyway
                party.post(peer, Finish(run.round, run.receipt.say(peer.name)))
        for peer in peers:
            bye = party.take_leave(peer)
            run.receipt.hear(peer.name, bye.signed if bye else None)
            if bye:
                gone.add(peer.name)
                run.store.note_finished(gone)
        run.receipt.seal()
    if run.plan.wait_for_peers and (names := awaited(run)):
        raise lost(names[0], "finish", "no goodbye")


def finish_as_collaborator(
    run: Run, host: Peer, told: Finish, before: Callable[[], object] = lambda: None
) -> None:
    """Note that the task is complete, and say goodbye.

    Args:
        run: the run of the Collaborator.
        host: the Host.
        told: the Host's last message.
        before: called first, within the phase.
    """
    party = run.party
    with party.in_phase("finish"):
        before()
        run.receipt.end()
        run.store.note_finished()
        run.complete = True
        run.receipt.hear(host.name, told.signed)
        signed = run.receipt.say(host.name)
        run.receipt.seal()
        party.leave(host, signed)
        party.close()  # once the goodbye is sent, nobody has to be told any more
        run.store.note_finished(run.plan.collaborators)
