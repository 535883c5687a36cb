"""Runs a training task in each role, from the intersection of ids to the finish."""

from __future__ import annotations

from pathlib import Path

from heterofed.compute.packed_ids import PackedIds
from heterofed.errors import ConfigError, FinalLookRefusedError
from heterofed.hetero_nn.feature_means import MEANS
from heterofed.hetero_nn.half_task import CollaboratorHalfTask, HostHalfTask
from heterofed.hetero_nn.hooks import lets_look, updates_by_default
from heterofed.hetero_nn.train.final_look import look_as_collaborator, look_as_host
from heterofed.hetero_nn.train.guard import OURS
from heterofed.hetero_nn.train.keeping import Keeping
from heterofed.hetero_nn.train.rounds import go_through_rounds
from heterofed.hetero_nn.train.split import split_as_collaborator, split_as_host
from heterofed.intersection.collaborator import intersect_as_collaborator
from heterofed.intersection.host import intersect_as_host
from heterofed.messaging.aborts import BETWEEN, unlawful
from heterofed.messaging.peer import Peer
from heterofed.protocol import messages as msg
from heterofed.reporting.results import write_whole
from heterofed.runs.checkpoint_part import CheckpointPart
from heterofed.runs.kept_task import (
    KeptTask,
    close_round_as_host,
    finish_as_collaborator,
    finish_as_host,
    tell_round_ended,
)
from heterofed.runs.run import Run
from heterofed.runs.term_limits import count_round

WHAT_COMES = (msg.SiteRows, msg.BeginTrain, msg.BeginTest, msg.Checkpoint, msg.RoundEnd, msg.Finish)
"""The messages that the Host may send between two phases."""

AT_THE_END = (msg.BeginTest, msg.Finish)
"""The messages that the Host may send after the last round."""


class _Training(KeptTask):
    """A task that trains, with its checkpoints."""

    purpose = "train"
    keeping: Keeping

    def open_folder(self, run: Run) -> None:
        """Make the results folder of the resumed or new run, unless a limit cannot be kept."""
        self.settings.check_terms(run.plan.limits)
        super().open_folder(run)


class HostTraining(_Training, HostHalfTask):
    """Training at the Host."""

    def make_half(self, run: Run) -> None:
        """Make the half, its loop and its checkpoints."""
        HostHalfTask.make_half(self, run)
        self.keeping = Keeping(
            self.half,
            (self.loop, _BestMeans()),
            accumulates=True,
            limit=self.limit(run),
            made=lambda: self.loop.guard,
        )

    def perform(self, run: Run) -> None:
        """Do the task, from the first phase after the join to its finish."""
        if not self._begin(run):
            go_through_rounds(
                run,
                self.half.hooks,
                self.settings,
                train=lambda: self._train_a_round(run),
                test=self.loop.test,
                end=lambda loss, seconds, last: self._end_round(run, loss, seconds, last=last),
            )
        self.keeping.files.save()
        if run.plan.final_rows:
            look_as_host(self.half)
        self._finish(run)

    def _begin(self, run: Run) -> bool:
        """Reach the point at which rounds begin, or resume; return whether all rounds are done."""
        if run.agreement.resume is not None:
            return self.keeping.checkpoints.take_up()
        self._agree_on_ids(run)
        return False

    def _agree_on_ids(self, run: Run) -> None:
        # No name is kept for the own ids, or for the common ids in their order: they are large.
        common = PackedIds.in_order(
            intersect_as_host(run, self.keeping.prepare(), self.half.further_ids)
        )
        keep = lambda: self.keeping.keep_split(len(common))  # noqa: E731
        split_as_host(self.half, common, self.loop.sites, keep)

    def _train_a_round(self, run: Run) -> float | None:
        for number in self.loop.train_a_round():
            self._keep_batch(run, number)
        return self.loop.record_round()

    def _keep_batch(self, run: Run, number: int) -> None:
        """Write a checkpoint within the round, before batch `number`."""
        party = run.party
        with party.in_phase("checkpoint", round_number=run.round):
            party.broadcast(msg.Checkpoint(run.round, number))
            run.batch = number
            self.loop.guard.note_counts()
            self.keeping.checkpoints.keep()
            for peer in party.peers.values():
                party.take(peer, msg.CheckpointHeld)

    def _end_round(self, run: Run, loss: float | None, seconds: float, *, last: bool) -> None:
        close_round_as_host(run, self.checkpoints, last=last, before=self.loop.end_round)
        measured: dict[str, float] = {}
        with run.harmless("the line of the round"):
            measured = _measured(run)
        tell_round_ended(run, max(self.settings.max_rounds, 0), seconds, loss, measured)

    def _finish(self, run: Run) -> None:
        finish_as_host(run, self.loop.guard.end)


class CollaboratorTraining(_Training, CollaboratorHalfTask):
    """Training at a Collaborator."""

    def make_half(self, run: Run) -> None:
        """Make the half, its loop and its checkpoints."""
        CollaboratorHalfTask.make_half(self, run)
        self.keeping = Keeping(
            self.half,
            [self.loop],
            accumulates=not updates_by_default(self.owner),
            limit=self.limit(run),
            made=lambda: self.loop.guard,
        )

    def is_trainable(self) -> bool:
        """Whether this party's features take gradients."""
        return self.settings.is_feature_trainable

    def perform(self, run: Run) -> None:
        """Do the task, from the first phase after the join to its finish."""
        party = run.party
        (host,) = party.peers.values()
        expected = self._begin(run, host)
        next_leg = run.batch
        while True:
            party.phase = BETWEEN
            mail = party.take(host, *expected)
            match mail.message:
                case msg.SiteRows():
                    self.loop.take_rows(mail, host)
                case msg.BeginTrain(round=number, staleness=steps, first=first):
                    self._count_rounds(run, host, first)
                    run.round, run.state.kept.staleness = number, steps
                    self.loop.train_a_leg(host, first)
                    next_leg = first + run.plan.checkpoint_batches
                case msg.Checkpoint(batch=number):
                    self._keep_batch(run, host, number)
                case msg.BeginTest() if expected is AT_THE_END:
                    self.keeping.files.save()
                    look_as_collaborator(self.half, self.loop, host)
                case msg.BeginTest():
                    self._check_round_trained(run, host, next_leg)
                    self.loop.test(host)
                case msg.RoundEnd(best=best, last=last):
                    self._check_round_trained(run, host, next_leg)
                    self._end_round(run, host, best=best, last=last)
                    expected = AT_THE_END if last else expected
                case msg.Finish() as told:
                    break
        self.keeping.files.save()
        self._finish(run, host, told)

    def _begin(self, run: Run, host: Peer) -> tuple[type[msg.Message], ...]:
        """Reach the point at which rounds begin, or resume; return the messages that the Host may
        send then.
        """
        agreement = run.agreement
        self.loop.check_plan()
        if agreement.resume is not None and self.keeping.checkpoints.take_up():
            return AT_THE_END
        if agreement.plan.shares_secrets and not agreement.mask_keys:
            raise unlawful(host.name, "join", "sent no masking keys for a run that trains")
        if agreement.resume is None:
            self._agree_on_ids(run, host)
        return WHAT_COMES

    def _agree_on_ids(self, run: Run, host: Peer) -> None:
        if run.plan.final_rows and not lets_look(self.owner):
            raise ConfigError(
                f"the plan of {host.name} has final_rows={run.plan.final_rows}: define"
                " iterate_final_feature, or let the Host give final_rows=0",
                told=FinalLookRefusedError.code,
            )
        most, further = self.settings.max_peer_ids, self.half.further_ids
        common = PackedIds.in_order(  # as at the Host, no other ids are held on to
            intersect_as_collaborator(run, host, self.keeping.prepare(), further, max_peer_ids=most)
        )
        keep = lambda: self.keeping.keep_split(len(common), self.loop.begin)  # noqa: E731
        split_as_collaborator(self.half, host, common, keep)

    def _count_rounds(self, run: Run, host: Peer, first: int) -> None:
        """Count the rounds that begin, over rollbacks and restarts, and compare the count with the
        plan.

        Raises:
            LeakLimitError: there are more rounds than the terms allow.
            RemoteProtocolError: there are more rounds than an honest Host would ever need.
        """
        if not first:
            count_round(run)
        most = run.plan.max_rounds
        if first or not most:
            return
        begun, allowed = run.opened_ledger().count(run.agreement.run, "rounds"), 2 * most
        allowed += self.settings.max_rollbacks
        if begun > allowed:
            what = f"has begun {begun} rounds in a run of {most}, those repeated counted too"
            raise unlawful(host.name, "train", what)

    def _check_round_trained(self, run: Run, host: Peer, next_leg: int) -> None:
        """Check that no leg of the round is left before its test or its end.

        If features are summed, all parties have to be tested with the weights after the same batch.

        Raises:
            RemoteProtocolError: batches from `next_leg` on have not been trained yet.
        """
        if not self.loop.is_round_trained(next_leg):
            what = f"has a round tested or ended of which {next_leg} batches are trained, not all"
            raise unlawful(host.name, f"train, round {run.round}", what)

    def _keep_batch(self, run: Run, host: Peer, number: int) -> None:
        party = run.party
        with party.in_phase("checkpoint", round_number=run.round):
            run.batch = number
            self.loop.guard.note_counts()
            self.keeping.checkpoints.keep()
            party.post(host, msg.CheckpointHeld(run.round, number))

    def _end_round(self, run: Run, host: Peer, *, best: bool, last: bool) -> None:
        party = run.party
        with party.in_phase("checkpoint", round_number=run.round):
            run.batch = 0
            self.loop.end_round()
            self.keeping.checkpoints.close_round(best=best, last=last)
            party.post(host, msg.CheckpointHeld(run.round))

    def _finish(self, run: Run, host: Peer, told: msg.Finish) -> None:
        finish_as_collaborator(run, host, told, self.loop.guard.end)


class _BestMeans(CheckpointPart):
    """Keep the means of features with the models of the best round too."""

    def write_beside(self, folder: Path, prefix: str) -> None:
        """See `CheckpointPart`."""
        if prefix:
            means = (folder / MEANS).read_bytes()
            write_whole(folder / f"{prefix}{MEANS}", lambda file: file.write(means))


def _measured(run: Run) -> dict[str, float]:
    """Return the rows that the user's metrics sets have of this round.

    The keys of a set that has a key in common with one before it are preceded by its name, as in
    `test/auc`, in every round.
    """
    found: dict[str, float] = {}
    taken: set[str] = set()
    for name, metrics in run.metrics.items():
        if name in OURS:
            continue
        keys = set(metrics.keys) - {"round"}
        lead = f"{name}/" if keys & taken else ""
        taken |= keys
        for key, value in metrics.last_of(run.round).items():
            if isinstance(value, int | float):
                found[key if key == "round" else f"{lead}{key}"] = value
    return found
