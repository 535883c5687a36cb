"""Runs a Collaborator's training: it sends features, steps on returned gradients, and tests."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from heterofed.compute.autograd import backward, gradients_like
from heterofed.compute.batch import Batch
from heterofed.compute.features import FeatureBatch
from heterofed.compute.freshness import explaining
from heterofed.compute.recomputed import Recomputed, Versions
from heterofed.compute.staleness import ahead
from heterofed.compute.streams import generators_kept
from heterofed.compute.tensors import check_finite
from heterofed.compute.transfer import on_gpu
from heterofed.errors import ConfigError
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.hooks import CollaboratorHooks, updates_by_default
from heterofed.hetero_nn.models import HalfModels
from heterofed.hetero_nn.settings import CollaboratorSettings
from heterofed.hetero_nn.sites.own_rows import check_place
from heterofed.hetero_nn.train.collaborator_guard import CollaboratorGuard
from heterofed.hetero_nn.train.dp_checks import check_private
from heterofed.hetero_nn.train.feature_sender import FeatureFeed
from heterofed.hetero_nn.train.guard import REPORT
from heterofed.hetero_nn.train.loop import Loop
from heterofed.hetero_nn.train.own_batches import TESTS, TRAINS
from heterofed.messaging.peer import Mail, Peer
from heterofed.metrics import registered_metrics


@dataclass(slots=True)
class InFlight:
    """A batch in flight, which the Host has not answered yet, with its graph.

    Attributes:
        weights: the mark of the weights of its forward pass; None without staleness.
    """

    number: int
    features: FeatureBatch
    weights: Versions | None


class CollaboratorLoop(Loop[HalfModels, CollaboratorGuard]):
    """The loop of a Collaborator in one run, from the split on.

    Args:
        owner: the Collaborator's scheduler.
        half: the half of the Collaborator.
        settings: the settings of the Collaborator.
    """

    def __init__(
        self, owner: CollaboratorHooks, half: Half[HalfModels], settings: CollaboratorSettings
    ) -> None:
        super().__init__(half)
        self._owner, self._settings = owner, settings
        self._in_flight: deque[InFlight] = deque()
        self._recomputed = Recomputed(self._models)

    def make_guard(self) -> CollaboratorGuard:
        """See `Loop`."""
        run, settings, model = self._run, self._settings, self._models.feature_model
        trains = settings.is_feature_trainable
        if not run.predicts:
            check_private(run, settings.weights_defence, [model], trains=trains)
        users, stream = registered_metrics(type(self._owner)), self._hooks.seeded_as
        return CollaboratorGuard(run, settings, users, stream, model)

    def begin(self) -> None:
        """Agree with other parties on the first weights, if this party has to, before training."""

    def check_plan(self) -> None:
        """Check that the plan has the place for this party that its settings say.

        Raises:
            ConfigError: the plan has another one.
        """
        check_place(self._run, self._settings)
        if self._settings.shard_feature_model and self._run.plan.max_staleness != 0:
            raise ConfigError(
                "shard_feature_model keeps no weights of steps before; set the Host's"
                " max_staleness=0"
            )

    def take_rows(self, mail: Mail, host: Peer) -> None:
        """Note which rows of the next batches are at this party, if it is a site of a role.

        Raises:
            RemoteProtocolError: they are not the rows of this party.
        """

    def leg_ids(self, first: int) -> Sequence[str]:
        """Return the train ids from batch `first` of this round up to the next checkpoint."""
        return self._half.leg_ids(first)

    def is_round_trained(self, next_leg: int) -> bool:
        """Return whether no batch from `next_leg` on is left to train in this round."""
        return not self._run.plan.checkpoint_batches or not self._half.leg_ids(next_leg)

    def train_a_leg(self, host: Peer, first: int, most: int | None = None) -> int:
        """Send the features of each train batch from `first` on, and step on the returned
        gradients.

        The step of batch b comes after the features of batch b + staleness, whenever its gradients
        arrive. So the weights that a forward pass uses depend on the batch number and not on time.
        All steps are done when the round, or its part up to a checkpoint, ends.

        Args:
            host: the Host, which gets the features.
            first: the number of the first batch.
            most: the number of batches to train on; None trains on all up to the next checkpoint
                within the round.

        Returns:
            The number of rows of the largest batch.
        """
        run, party, guard = self._run, self._run.party, self.guard
        trainable, rows = self._settings.is_feature_trainable, 0
        self._models.set_modes(training=True)
        self._movement.begin()
        self._in_flight.clear()
        self._recomputed.forget()
        with (
            party.in_phase("train", round_number=run.round, unit="batches"),
            generators_kept(),
        ):
            guard.budget.start()
            feed = FeatureFeed(party, host, first, guard.witness() if trainable else None)
            for features in self._features(TRAINS, self.leg_ids(first), first, most):
                if trainable:
                    mark = self._recomputed.note() if host.session.staleness else None
                    self._in_flight.append(InFlight(feed.number, features, mark))
                rows = max(rows, features.rows)
                self._send(feed, features, TRAINS, testing=False)
                with run.harmless(REPORT):
                    guard.note()  # while the Host works
                del features  # frees them before the next ones are made
                self._update_down_to(feed, host.session.staleness)
            if not feed.compares:
                feed.end()
            self._update_down_to(feed, 0)
            if feed.compares:  # after all gradients were compared
                feed.end()
            feed.settle()
            guard.budget.stop()
        run.state.kept.staleness = host.session.staleness
        return rows

    def test(self, host: Peer, most: int | None = None) -> None:
        """Send the features of all test batches, or of the first `most`, in eval mode."""
        run, party = self._run, self._run.party
        with (
            party.in_phase("test", round_number=run.round, unit="batches"),
            generators_kept(),
            self._half.evaluating(),
        ):
            feed = FeatureFeed(party, host)
            for _ in self.sending(feed, TESTS, run.state.test_ids, most=most):
                pass
            feed.end()
            feed.settle()

    def sending(
        self,
        feed: FeatureFeed,
        hook: str,
        ids: Sequence[str],
        *,
        most: int | None = None,
        before: Callable[[int], None] = lambda _rows: None,
    ) -> Iterator[int]:
        """Send the features that a hook yields for a test or a prediction.

        Args:
            feed: sends the batches.
            hook: the name of the hook.
            ids: the ids that the hook is called with.
            most: the number of batches to send; None sends all.
            before: called with the number of rows of each batch before it is sent.

        Yields:
            The number of rows of each batch after it was sent.
        """
        for features in self._features(hook, ids, 0, most):
            rows = features.rows
            before(rows)
            self._send(feed, features, hook, testing=True)
            del features  # frees them before the next ones are made
            yield rows

    # -- within ------------------------------------------------------------------------------

    def _send(self, feed: FeatureFeed, features: FeatureBatch, hook: str, *, testing: bool) -> None:
        proof = self._half.order.proof(features.ids, feed.number, features.rows, hook)
        masked = self.guard.masked(features, feed.number, testing=testing)
        feed.send(masked, proof, what=f"what {hook} yielded")

    def _features(
        self, hook: str, ids: Sequence[str], first: int, most: int | None
    ) -> Iterator[FeatureBatch]:
        """Yield the batches of a feature hook after they were checked, counted and defended."""
        number, guard = first, self.guard
        for batch in self._own(hook, ids, first, most):
            features = FeatureBatch.of(batch.features, hook, batch.ids)
            del batch
            key = self._settings.feature_key
            # What goes from a GPU unaltered is checked when it is sent, with one wait for both.
            if guard.alters or not on_gpu(features.tensors):
                check_finite(features.tensors, f"what {hook} yielded", key)
            guard.leaves(features)
            features = guard.outgoing(features, number, testing=hook != TRAINS)
            yield features
            del features  # frees them before the next ones are made
            number += 1

    def _own(self, hook: str, ids: Sequence[str], first: int, most: int | None) -> Iterator[Batch]:
        (host,) = self._run.party.peers.values()
        grad = hook == TRAINS and self._settings.is_feature_trainable

        def around(items: Iterable[Any]) -> Iterator[Any]:
            late = lambda: bool(self._in_flight or host.session.staleness)  # noqa: E731
            return ahead(items, self._models.feature_weights, late)

        own: Iterator[Batch] = self._half.batches.of(
            hook, ids, grad=grad, with_labels=False, around=around if grad else None, first=first
        )
        return own if most is None else itertools.islice(own, most)

    def _update_down_to(self, feed: FeatureFeed, staleness: int) -> None:
        """Step on the oldest batches until at most `staleness` batches are in flight."""
        while len(self._in_flight) > staleness:
            batch = self._in_flight.popleft()
            with nullcontext() if batch.weights is None else self._recomputed.at(batch.weights):
                self._update(feed, batch)

    def _update(self, feed: FeatureFeed, batch: InFlight) -> None:
        """Step on the final gradients of a batch; the backward pass starts with the first ones."""
        last, features = self._take_gradients(feed, batch), batch.features
        if not last:
            return
        hook = "update_feature_model"
        if updates_by_default(self._owner):
            self._hooks.call_as(hook, self._models.feature_optimizer.step)
        else:
            arranged = gradients_like(features.layout, features.tensors, last)
            with explaining(TRAINS):
                self._hooks.seeded(hook, features.given, arranged)

    def _take_gradients(self, feed: FeatureFeed, batch: InFlight) -> dict[str, Tensor]:
        """Return the final gradients of a batch, after the backward pass unless the user's hook
        makes it.
        """
        guard, features = self.guard, batch.features
        self._run.party.batch = batch.number
        last: dict[str, Tensor] = {}
        hook, at_once = "update_feature_model", updates_by_default(self._owner)
        for came in feed.answers():
            last = guard.gradients(batch.number, features.tensors, came)
            if at_once and last:
                with explaining(TRAINS):
                    self._hooks.seeded_as(hook, self._backward, features.tensors, last)
        guard.forget(batch.number)
        return last

    def _backward(self, tensors: dict[str, Tensor], gradients: dict[str, Tensor]) -> None:
        self._models.feature_optimizer.zero_grad()
        backward(tensors, gradients, retain=True)
