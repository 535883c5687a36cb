"""Runs the Host's training: it trains on joint batches, sends gradients back, and tests."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from heterofed.compute.batch import Batch, copied_batch
from heterofed.compute.freshness import explaining
from heterofed.compute.leaves import EarlyGradients, Leaves
from heterofed.compute.streams import generators_kept, random_stream
from heterofed.compute.tensors import check_finite, pack
from heterofed.compute.transfer import on_gpu
from heterofed.errors import ConfigError, FeatureError
from heterofed.hetero_nn.feature_means import MEANS, FeatureMeans
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.hooks import HostHooks
from heterofed.hetero_nn.models import HostModels
from heterofed.hetero_nn.settings import HostSettings
from heterofed.hetero_nn.sites.merging import rows_of_labels
from heterofed.hetero_nn.sites.relay import SumRelay
from heterofed.hetero_nn.sites.rows_at_host import RowsOfSites
from heterofed.hetero_nn.train.dp_checks import check_private
from heterofed.hetero_nn.train.gradient_relay import TagRelay
from heterofed.hetero_nn.train.guard import REPORT
from heterofed.hetero_nn.train.host_guard import HostGuard
from heterofed.hetero_nn.train.joint_batch import (
    JointBatch,
    Received,
    Relay,
    joint_batches,
    leaves_of,
    telling_what_came,
)
from heterofed.hetero_nn.train.loop import Loop
from heterofed.hetero_nn.train.own_batches import TESTS, TRAINS
from heterofed.hetero_nn.train.pacing import Pacing
from heterofed.hetero_nn.train.recording import as_numbers, record_training, scalars_of
from heterofed.hetero_nn.train.test_hooks import TestHooks
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.metrics import registered_metrics
from heterofed.protocol import messages as msg
from heterofed.runs.term_limits import count_round

logger = logging.getLogger("heterofed")

GRADIENT = "the gradient of the features"
"""The name of what is sent to Collaborators, for errors."""


class HostLoop(Loop[HostModels, HostGuard]):
    """The loop of the Host in one run, from the split on.

    Args:
        owner: the Host's scheduler.
        half: the half of the Host.
        settings: the settings of the Host.
    """

    def __init__(self, owner: HostHooks, half: Half[HostModels], settings: HostSettings) -> None:
        super().__init__(half)
        self._owner, self._settings = owner, settings
        self._warned: set[str] = set()
        self._pacing = Pacing(self._run)
        self._sites: RowsOfSites | None = None

    @property
    def sites(self) -> RowsOfSites | None:
        """The rows of the sites, if the plan has roles with sites."""
        if self._sites is None and self._run.plan.sites:
            self._sites = RowsOfSites(self._run)
        return self._sites

    def make_guard(self) -> HostGuard:
        """See `Loop`."""
        run, settings = self._run, self._settings
        check_private(run, settings.weights_defence, self._models.models())
        users = registered_metrics(type(self._owner))
        return HostGuard(run, settings, users, self._hooks.seeded_as)

    # -- a round -----------------------------------------------------------------------------

    def train_a_round(self) -> Iterator[int]:
        """Train on all train ids once, or on the rest of a round that was interrupted.

        Yields:
            The number of the batch before which a checkpoint is due.
        """
        run, plan = self._run, self._run.plan
        first = run.batch
        if not first:
            count_round(run)
        while True:
            trained = self.train_a_leg(first)
            if not trained:
                raise FeatureError(
                    f"iterate_train_feature gave no batch in round {run.round}; return a new"
                    " iterator in each round"
                )
            first += plan.checkpoint_batches
            if not plan.checkpoint_batches or not self._half.leg_ids(first):
                break
            if trained != first:
                raise ConfigError(
                    f"iterate_train_feature gave {trained} batches where {first} were due;"
                    " yield those of self.batches(train_ids), which checkpoint_batches counts"
                )
            self._pacing.end(first)
            yield first
        run.batch = 0

    def record_round(self) -> float | None:
        """Write the means of the round, and return the mean loss."""
        run, kept = self._run, self._run.state.kept
        FeatureMeans(kept.means, run.harmless).save(run.result.folder / MEANS)
        recorded, kept.means, kept.recorded = kept.recorded, {}, []
        self._pacing.end_round([each["loss"] for each in recorded if "loss" in each])
        return record_training(run, type(self._owner), recorded)

    def train_a_leg(self, first: int, most: int | None = None) -> int:
        """Train on the batches from `first` up to the next checkpoint within the round.

        Args:
            first: the number of the first batch.
            most: the number of batches to train on; None trains on all.

        Returns:
            The number of batches of the round that are trained.
        """
        run, party, guard = self._run, self._run.party, self.guard
        self._models.set_modes(training=True)
        self._movement.begin()
        number, means = first, FeatureMeans(run.state.kept.means, run.harmless)
        recorded: list[dict[str, float | Tensor]] = []
        with (
            party.in_phase("train", round_number=run.round, unit="batches"),
            generators_kept(),
        ):
            guard.budget.start()
            if self.sites is not None:
                self.sites.begin(self._batches_of_round(), testing=False)
            party.broadcast(msg.BeginTrain(run.round, self._pacing.begin(first), first))
            for batch in self._joint_batches(TRAINS, self._half.leg_ids(first), first, most):
                self._pacing.note(batch)
                steps = self._pacing.before(number + 1)
                for name, features in batch.by_name().items():
                    means.add(name, features)
                recorded.append(self.step(number, batch, steps))
                number += 1
                party.progress(number)
            guard.budget.stop()
            run.state.kept.recorded += as_numbers(recorded)
            means.settle()
        return number

    # -- a batch -----------------------------------------------------------------------------

    def step(
        self, number: int, batch: JointBatch, staleness: int | None = None
    ) -> dict[str, float | Tensor]:
        """Train on one batch, send the gradients back, and return the scalars to record."""
        guard = self.guard
        watched = [
            (each, leaves, self._early(each, leaves, number, done=staleness is None))
            for each, leaves in leaves_of(batch)
        ]
        seen: list[dict[str, Tensor]] = [{} for _ in batch.theirs]
        with self._run.harmless(REPORT):
            seen = [guard.measured_part(each.part(each.features.tensors)) for each in batch.theirs]
        labels = guard.labels(batch.mine)
        outcome = self._train(number, batch, labels, [leaves for _, leaves, _ in watched])
        for _, _, early in watched:
            if early is not None:
                early.hand_on_copies()
        batch.confirm()
        sent = self._answer(number, batch, watched, labels, staleness)
        for each in batch.theirs:  # after the gradients of all parties were sent
            self._run.party.let_drain(each.peer)
        for (each, clean, defended), part in zip(sent, seen, strict=True):
            with self._run.harmless(REPORT):  # measures while the others compute
                theirs = rows_of_labels(batch.mine.labels, each.rows)
                guard.note(each.peer.name, clean, defended, theirs, part)
        return scalars_of(outcome, self._warned)

    def _early(
        self, each: Received, leaves: Leaves, number: int, *, done: bool
    ) -> EarlyGradients | None:
        """Return an object that sends gradients during the user's backward pass, or None."""
        early = self._settings.early_gradients
        if self._run.plan.limits.max_label_auc is not None:
            return None  # gradients are measured before they are sent
        if not early or each.peer.session.staleness:
            return None
        send = functools.partial(_send_gradients, self._run.party, each.peer, number)
        return EarlyGradients(leaves, functools.partial(send, done=done and early == "once"))

    def _train(self, number: int, batch: JointBatch, labels: Any, leaves: list[Leaves]) -> Any:
        """Count what will be sent, and let the user train on a batch."""
        listening = any(each.peer.session.trainable for each in batch.theirs)
        self.guard.steps(batch.mine, batch.theirs[0].features.rows, listening=listening)
        rows = {each.key: each.features.rows for each in batch.theirs}
        projection = batch.projection(self._run.party.name, self.kept_rows(number, rows))
        covered = self._models.made("optimizer").covering(leaves)
        with telling_what_came(projection), explaining(TRAINS), covered:
            return self._hooks.seeded("train_a_batch", projection, labels)

    def _answer(
        self,
        number: int,
        batch: JointBatch,
        watched: list[tuple[Received, Leaves, EarlyGradients | None]],
        labels: Any,
        staleness: int | None,
    ) -> list[tuple[Received, dict[str, Tensor], dict[str, Tensor]]]:
        """Send each Collaborator its gradients, and return them before and after the defence."""
        party = self._run.party
        sent: list[tuple[Received, dict[str, Tensor], dict[str, Tensor]]] = []
        clean: dict[str, Tensor] = {}
        defended: dict[str, Tensor] = {}
        for each, leaves, early in watched:
            if not batch.sums or not sent:  # all parties of a sum get the same gradients
                clean = each.part(leaves.gradients())
                # What goes from a GPU unaltered is checked when it is sent.
                if self.guard.alters or not on_gpu(clean):
                    check_finite(clean, GRADIENT, each.peer.name)
                theirs = rows_of_labels(labels, each.rows)
                came = each.part(each.features.tensors)
                defended = self.guard.outgoing(each.peer.name, clean, theirs, came)
            last = early.changed() if early else bool(clean)
            sent_once = self._was_sent_once(early, changed=last)
            if last:
                _send_gradients(party, each.peer, number, defended, done=staleness is None)
            if not (last or sent_once) or staleness is not None:
                done = msg.BatchDone(self._run.round, number, stepped=True, staleness=staleness)
                party.post(each.peer, done, patient=False)
            sent.append((each, clean, defended))
        return sent

    def _was_sent_once(self, early: EarlyGradients | None, *, changed: bool) -> bool:
        """Return whether gradients were sent that no others may follow.

        Raises:
            ConfigError: `train_a_batch` has changed them since.
        """
        if early is None or not early.has_handed or self._settings.early_gradients != "once":
            return False
        if changed:
            raise ConfigError(
                "early_gradients='once': train_a_batch changed gradients of features after they"
                " were sent (a second backward, clipping, noise); give early_gradients=True, which"
                " sends them again, or False"
            )
        return True

    def kept_rows(self, number: int, rows: Mapping[str, int]) -> dict[str, Tensor] | None:
        """Return which rows of each Collaborator `party_dropout` keeps."""
        chance = self._settings.party_dropout
        if not chance:
            return None
        path = (self._settings.feature_key, "party_dropout", self._run.round, number)
        with random_stream(self._run.seed, *path):
            return {name: torch.rand(count) >= chance for name, count in rows.items()}

    # -- a test ------------------------------------------------------------------------------

    def test(self, most: int | None = None) -> None:
        """Test the models on the test ids, or on their first `most` batches."""
        run, party = self._run, self._run.party
        tested = TestHooks(self._owner, self._hooks)
        with (
            party.in_phase("test", round_number=run.round, unit="batches"),
            generators_kept(),
            self._half.evaluating(),
        ):
            if self.sites is not None:
                self.sites.begin(self._owner.batches(run.state.test_ids), testing=True)
            party.broadcast(msg.BeginTest(run.round))
            batches = self._joint_batches(TESTS, run.state.test_ids, 0, most)
            for number, batch in enumerate(batches):
                if tested.keeps:
                    batch.mine = copied_batch(batch.mine)  # its hook may reuse the memory
                tested.add(batch.projection(party.name), batch.mine.labels)
                batch.confirm()
                for each in batch.theirs:
                    party.post(each.peer, msg.BatchDone(run.round, number, stepped=False))
                party.progress(number + 1)
            tested.end()

    def _joint_batches(
        self, hook: str, ids: Sequence[str], first: int, most: int | None
    ) -> Iterator[JointBatch]:
        run, party = self._run, self._run.party
        relay: Relay | None = SumRelay(party, run.plan) if run.plan.sites else None
        sums = run.plan.fusion == "masked_sum"
        if sums:
            if len({each.session.trainable for each in party.peers.values()}) > 1:
                raise ConfigError(
                    "fusion='masked_sum' sums features of one kind; give all Collaborators the same"
                    " is_feature_trainable"
                )
            relay = TagRelay(party, run.plan.collaborators)
        own: Iterator[Batch] = self._half.batches.of(
            hook,
            ids,
            grad=hook == TRAINS and self._settings.is_feature_trainable,
            with_labels=True,
            first=first,
        )
        if most is not None:
            own = itertools.islice(own, most)
        order, model = self._half.order, self._models.infer_model
        return joint_batches(
            party, own, hook, model, order, first, relay=relay, sites=self.sites, sums=sums
        )

    def _batches_of_round(self) -> Iterator[list[str]]:
        """Yield the ids of all batches of this round, as `batches` cuts them."""
        every, first = self._run.plan.checkpoint_batches, 0
        while ids := self._half.leg_ids(first):
            yield from self._owner.batches(ids)
            if not every:
                return
            first += every


def _send_gradients(
    party: Party, peer: Peer, number: int, gradients: dict[str, Tensor], *, done: bool = False
) -> None:
    with party.encoding(peer, "sent"):
        coding = peer.session.gradient_coding
        specs, payload = pack(gradients, coding, peer.name, unchecked=GRADIENT)
    # This may run within the user's backward pass, where nothing may wait.
    party.post(peer, msg.Gradients(party.round, number, specs, done), payload, patient=False)
