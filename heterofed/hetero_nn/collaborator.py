"""A Collaborator: holds features only, sends them at the cut layer, trains on what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from heterofed.errors import LocalProtocolError, SplitMismatchError
from heterofed.events import Callback
from heterofed.hetero_nn.feed import FeatureFeed
from heterofed.hetero_nn.intersection import intersect_as_collaborator
from heterofed.hetero_nn.meeting import as_collaborator
from heterofed.lifecycle import Run, Settings, party_of, plan_of
from heterofed.party import Party
from heterofed.peers import Peer
from heterofed.protocol import messages as msg
from heterofed.scheduler import TrainingScheduler
from heterofed.tensors import Layout, check_finite, named
from heterofed.training import backward, evaluating, gradients_like, sharing_cores

MODELS = ("feature_model",)


class HeteroNNCollaboratorScheduler(TrainingScheduler):
    """Subclass it, fill in the hooks, and call `launch_task`.

    Args:
        feature_key: this party's unique key in the task; also its identity.
        name: shown in logs and used for the results folder; the feature key by default.
        schedule_timeout: longest silence (s) of the Host before its plan is known.
        data_channel_timeout: (seconds to establish a link once the Host is there, seconds without
            a byte while one message is moving).
        is_feature_trainable: False freezes this party's feature model: no gradient travels.
        max_peer_ids: ids that the Host may have intersected in all runs of a task together; counted
            on disk, so that nobody walks through a phone book.
        seed: start of this party's random streams (initial weights, dropout); it stays here. None
            draws a secret one. Give a number only to repeat a run: a Host that can guess it knows
            the initial weights, and works back from features to raw rows.
        join_timeout: seconds to wait for the Host to come online; 0: for ever.
        results_dir: parent of `<task_id>/<name>`, where results are written.
        callbacks: get every event of the task (see `heterofed.events`).
    """

    def __init__(
        self,
        feature_key: str,
        name: str | None = None,
        schedule_timeout: float = 30,
        data_channel_timeout: tuple[float, float] = (30, 60),
        is_feature_trainable: bool = True,
        *,
        max_peer_ids: int = 10_000_000,
        join_timeout: float = 3600,
        seed: int | None = None,
        results_dir: str | Path = "heterofed_runs",
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        self._settings = Settings(
            feature_key=feature_key,
            name=name,
            schedule_timeout=schedule_timeout,
            data_channel_timeout=data_channel_timeout,
            join_timeout=join_timeout,
            results_dir=Path(results_dir),
            callbacks=tuple(callbacks),
            seed=seed,
        )
        self._is_feature_trainable = is_feature_trainable
        self._max_peer_ids = max_peer_ids

    # -- hooks -----------------------------------------------------------------------------

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        """Hook: one step of the feature model; the place for clipping, AMP, accumulation.

        Args:
            features: what `iterate_train_feature` yielded, still attached to its graph.
            gradients: dL/dfeatures in the same arrangement; None for tensors without one.

        By default: `zero_grad`, backward from the gradients, `step`. Where this is not overridden,
        backward runs while the Host is still busy with its own half.
        """
        tensors = named(features, "iterate_train_feature")[1]
        self._backward(tensors, named_gradients(tensors, gradients))
        self._made("feature_optimizer").step()

    # -- the loop --------------------------------------------------------------------------

    def _perform(self, run: Run) -> None:
        party = party_of(run)
        (host,) = party.peers.values()
        self._agree_on_ids(run, host)
        while True:
            party.phase = "between phases"
            match party.take(host, msg.BeginTrain, msg.BeginTest, msg.RoundEnd, msg.Finish).message:
                case msg.BeginTrain(round=number):
                    run.round = number
                    self._train_a_round(run, host)
                case msg.BeginTest():
                    self._test(run, host)
                case msg.RoundEnd(best=best):
                    if best:
                        self._save_models(run, MODELS, prefix="best_")
                    self._call_hook("on_round_end", self.on_round_end)
                case _:
                    break
        self._finish(run, host)

    @contextmanager
    def _meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        with (
            as_collaborator(
                run,
                self._settings,
                callbacks,
                purpose="train",
                timeouts=self._timeouts(),
                trainable=self._is_feature_trainable,
            ) as party,
            sharing_cores(1 + len(plan_of(run).collaborators)),
        ):
            yield party

    def _agree_on_ids(self, run: Run, host: Peer) -> None:
        party = party_of(run)
        common = intersect_as_collaborator(
            run, host, self._prepare(run), max_peer_ids=self._max_peer_ids
        )
        with party.in_phase("split"):
            theirs = party.take(host, msg.SplitPlan).of(msg.SplitPlan)
            mine = self._split(run, common)
            if mine != theirs:
                raise SplitMismatchError(
                    f"split_dataset gave {mine.train_count} train and {mine.test_count} test ids at"
                    f" {party.name}, {theirs.train_count} and {theirs.test_count} at {host.name},"
                    " or others of the same number; use the same function at every party"
                )
            party.post(host, msg.SplitAccepted())

    def _train_a_round(self, run: Run, host: Peer) -> None:
        """Send the features of each train batch; step on what comes back."""
        party, trainable = party_of(run), self._is_feature_trainable
        self._set_modes(training=True)
        with party.in_phase("train", round_number=run.round, unit="batches"):
            feed = FeatureFeed(party, host)
            hook, ids = "iterate_train_feature", self._round_ids(run)
            for layout, tensors, features in self._features(run, hook, ids, grad=trainable):
                feed.send(layout, tensors)
                if trainable:
                    self._update(feed, layout, tensors, features)
            feed.end()

    def _test(self, run: Run, host: Peer) -> None:
        """Send the features of each test batch, in eval mode."""
        party = party_of(run)
        with (
            party.in_phase("test", round_number=run.round, unit="batches"),
            evaluating(self._made("feature_model")),
        ):
            feed = FeatureFeed(party, host)
            hook, ids = "iterate_test_feature", run.state["test_ids"]
            for layout, tensors, _ in self._features(run, hook, ids, grad=False):
                feed.send(layout, tensors)
            feed.end()

    def _finish(self, run: Run, host: Peer) -> None:
        party = party_of(run)
        with party.in_phase("finish"):
            self._save_models(run, MODELS)
            party.leave(host)

    # -- within ----------------------------------------------------------------------------

    def _update(
        self, feed: FeatureFeed, layout: Layout, tensors: dict[str, Tensor], features: Any
    ) -> None:
        """Step on the gradients that count; backward begins with the first that come."""
        last: dict[str, Tensor] = {}
        ahead = _updates_by_default(self)
        for last in feed.answers():
            if ahead and last:
                self._seeded("update_feature_model", self._backward, tensors, last, retain=True)
        if not last:
            return
        if ahead:
            self._made("feature_optimizer").step()
        else:
            arranged = gradients_like(layout, tensors, last)
            self._seeded_hook("update_feature_model", features, arranged)

    def _backward(
        self, tensors: dict[str, Tensor], gradients: dict[str, Tensor], *, retain: bool = False
    ) -> None:
        self._made("feature_optimizer").zero_grad()
        backward(tensors, gradients, retain=retain)

    def _features(
        self, run: Run, hook: str, ids: Sequence[str], *, grad: bool
    ) -> Iterator[tuple[Layout, dict[str, Tensor], Any]]:
        """What a feature hook yields: as named tensors, checked, and as it was."""
        for batch in self._own_batches(run, hook, ids, grad=grad, with_labels=False):
            layout, tensors = named(batch.features, hook)
            check_finite(tensors, f"what {hook} yielded", self._settings.feature_key)
            yield layout, tensors, batch.features


def named_gradients(tensors: dict[str, Tensor], gradients: Any) -> dict[str, Tensor]:
    """The inverse of `gradients_like`: gradients by tensor name, without those that are None."""
    if isinstance(gradients, Tensor) or gradients is None:
        gradients = (gradients,)
    values = gradients.values() if isinstance(gradients, dict) else gradients
    if len(values) != len(tensors):
        raise LocalProtocolError("update_feature_model got other gradients than features")
    return {name: value for name, value in zip(tensors, values, strict=True) if value is not None}


def _updates_by_default(scheduler: HeteroNNCollaboratorScheduler) -> bool:
    mine = getattr(scheduler.update_feature_model, "__func__", None)
    return mine is HeteroNNCollaboratorScheduler.update_feature_model
