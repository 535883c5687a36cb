"""A Collaborator: holds features only, sends them at the cut layer, trains on what comes back."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from heterofed.compute.autograd import backward, evaluating, gradients_like, sharing_cores
from heterofed.compute.batch import Batch, rows_of
from heterofed.compute.freshness import explaining
from heterofed.compute.staleness import ahead
from heterofed.compute.streams import generators_kept
from heterofed.compute.tensors import Layout, check_finite, named, restore
from heterofed.errors import ConfigError, LocalProtocolError, SplitMismatchError
from heterofed.events import Callback
from heterofed.hetero_nn.train.announced_split import announced_split
from heterofed.hetero_nn.train.feature_sender import FeatureFeed
from heterofed.hetero_nn.train.privacy_guard import REPORT, CollaboratorGuard, check_private
from heterofed.hetero_nn.train.row_order import RowOrder
from heterofed.hetero_nn.training_scheduler import TrainingScheduler
from heterofed.intersection.host import intersect_as_collaborator
from heterofed.messaging.aborts import BETWEEN, unlawful
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.metrics import registered_metrics
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.leakage import Budget, Effort
from heterofed.protocol import messages as msg
from heterofed.reporting.diagnostics import shielded
from heterofed.reporting.results import TaskResult
from heterofed.runs.connect import as_collaborator
from heterofed.runs.extra_modules import modules_beside
from heterofed.runs.run import Run, agreement_of, earlier, ledger_of, party_of, plan_of
from heterofed.runs.settings import ReleaseLimits, Settings

logger = logging.getLogger("heterofed")

WHAT_COMES = (msg.BeginTrain, msg.BeginTest, msg.Checkpoint, msg.RoundEnd, msg.Finish)
"""What the Host may say between two phases."""


@dataclass(slots=True)
class InFlight:
    """A batch that the Host has not answered, with its graph.

    Attributes:
        features: as the hook yielded them; `tensors` are the same by name.
    """

    number: int
    layout: Layout
    tensors: dict[str, Tensor]
    features: Any


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
            on disk, so that nobody walks through a phone book, and those of unchanged sets once.
            Simulations do not count.
        max_releases_per_row: how often features of any one row may leave: in training, in tests,
            predictions and rehearsals of all runs of this task together. One more ends the task
            with a `ReleaseLimitError` before it leaves; None sets no limit.
        max_epsilon: most that `eps_embeddings` or `eps_weights` may come to, in all runs together,
            for what this party has a defence for; the task ends like that before it is more.
        max_rollbacks: how often a run may go back to the same checkpoint, whoever asks for it:
            each time the same rows are sent again. Counted on disk, over restarts.
        seed: start of this party's random streams (initial weights, dropout); it stays here. None
            draws a secret one. Give a number only to repeat a run: a Host that can guess it knows
            the initial weights, and works back from features to raw rows.
        embedding_defence: what is done so that embeddings tell less of the inputs:
            `ClippedGaussian` or `Decorrelation` of `heterofed.privacy.embedding_defences`.
        weights_defence: trains the feature model by DP-SGD (`heterofed.privacy.dpsgd.DPSGD`).
        leak_report: "sample" measures what the embeddings give away, in at most 3 % of the time;
            "full" measures every batch; "off" nothing. Written to `leakage.csv`.
        join_timeout: seconds to wait for the Host to come online; 0: for ever.
        insecure: run a task whose file lists no keys over TCP in the clear, where anybody on the
            way can read and change everything. For experiments on a network of your own.
        agreed: what the Host has to announce as its `agreed=`, of what it announces; the task ends
            with an `OtherSettingsError` before any id leaves where it announces something else.
        results_dir: parent of `<task_id>/<name>`, where results are written.
        callbacks: get every event of the task (see `heterofed.events`).
    """

    _heterofed_models = ("feature_model",)

    def __init__(
        self,
        feature_key: str,
        name: str | None = None,
        schedule_timeout: float = 30,
        data_channel_timeout: tuple[float, float] = (30, 60),
        is_feature_trainable: bool = True,
        *,
        max_peer_ids: int = 10_000_000,
        max_releases_per_row: int | None = None,
        max_epsilon: float | None = None,
        max_rollbacks: int = 10,
        embedding_defence: ClippedGaussian | Decorrelation | None = None,
        weights_defence: DPSGD | None = None,
        leak_report: Effort = "sample",
        join_timeout: float = 3600,
        insecure: bool = False,
        seed: int | None = None,
        agreed: Mapping[str, str] | None = None,
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
            seed=seed,
            agreed={} if agreed is None else agreed,
        )
        self._heterofed_is_feature_trainable = is_feature_trainable
        self._heterofed_max_peer_ids = max_peer_ids
        self._heterofed_limits = ReleaseLimits(max_releases_per_row, max_epsilon, max_rollbacks)
        self._heterofed_embedding_defence = embedding_defence
        self._heterofed_weights_defence = weights_defence
        self._heterofed_leak_report = leak_report

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
        self._heterofed_backward(tensors, named_gradients(tensors, gradients))
        self._heterofed_made("feature_optimizer").step()

    def serve_predictions(
        self,
        task_id: str,
        *,
        max_rows_per_day: int,
        max_ids_per_day: int | None = None,
        allow_ids: Iterable[str] | None = None,
        requests: int = 0,
    ) -> int:
        """Answer the Host's `predict`, one request after another, with the finished run's model.

        Each request is logged in `predictions/log.jsonl` in the results folder: times and row
        counts, no ids; before the first row leaves, and again when it has ended, well or not. A
        request that fails is followed by the next one, and so is a `join_timeout` without one.

        Args:
            task_id: of the finished task.
            max_rows_per_day: rows to predict per day (UTC) at most; counted on disk before they
                are computed, and no longer where the request failed before any of them left.
            max_ids_per_day: ids that the Host may have intersected for predictions per day (UTC),
                whether they are here or not; counted on disk, and apart from those of training.
                None: the constructor's `max_peer_ids`.
            allow_ids: only these rows; None: all of `load_local_ids`. Of others the Host does not
                even learn that they are here.
            requests: return after so many requests, and raise where one fails; 0: serve until
                interrupted by Ctrl-C.

        Returns:
            Rows predicted.

        Raises:
            ConfigError: something at this party cannot work, there is no finished run, or it was
                one with `fusion="masked_sum"`.
            JoinTimeoutError, LimitReachedError, OtherRunError, TaskFailed: only where `requests`
                is given.
        """
        from heterofed.hetero_nn.predict.collaborator import serve

        return serve(
            self,
            task_id,
            max_rows_per_day=max_rows_per_day,
            max_ids_per_day=max_ids_per_day,
            allow_ids=allow_ids,
            requests=requests,
        )

    def _heterofed_rehearse(self, task_id: str) -> TaskResult:
        from heterofed.hetero_nn.train.dry_run import rehearse

        return rehearse(self, task_id)

    def validate_context(self) -> None:
        """Hook: check settings before anything else; call `super().validate_context()`.

        Raises:
            ConfigError: a setting of the constructor cannot work.
        """
        super().validate_context()
        noisy = isinstance(self._heterofed_embedding_defence, ClippedGaussian)
        self._heterofed_limits.check(defended=noisy or self._heterofed_weights_defence is not None)

    # -- the loop --------------------------------------------------------------------------

    def _heterofed_perform(self, run: Run) -> None:
        party = party_of(run)
        (host,) = party.peers.values()
        expected = self._heterofed_begin(run, host)
        next_leg = run.batch
        while True:
            party.phase = BETWEEN
            match party.take(host, *expected).message:
                case msg.BeginTrain(round=number, staleness=steps, first=first):
                    self._heterofed_count_rounds(run, host, first)
                    run.round, run.state["staleness"] = number, steps
                    self._heterofed_train_a_leg(run, host, first)
                    next_leg = first + plan_of(run).checkpoint_batches
                case msg.Checkpoint(batch=number):
                    self._heterofed_keep_batch(run, host, number)
                case msg.BeginTest():
                    self._heterofed_check_round_trained(run, host, next_leg)
                    self._heterofed_test(run, host)
                case msg.RoundEnd(best=best, last=last):
                    self._heterofed_check_round_trained(run, host, next_leg)
                    self._heterofed_end_round(run, host, best=best, last=last)
                case _:
                    break
        self._heterofed_finish(run, host)

    @contextmanager
    def _heterofed_meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        with (
            as_collaborator(
                run,
                self._heterofed_settings,
                callbacks,
                purpose="train",
                timeouts=self._heterofed_timeouts(),
                trainable=self._heterofed_is_feature_trainable,
                earlier=earlier(run),
            ) as party,
            sharing_cores(1 + len(plan_of(run).collaborators)),
        ):
            yield party

    def _heterofed_begin(self, run: Run, host: Peer) -> tuple[type[msg.Message], ...]:
        """Come to where the rounds begin, or go on; gives what the Host may say from there on."""
        agreement = agreement_of(run)
        if agreement.resume is not None and self._heterofed_take_up(run):
            return (msg.Finish,)
        if agreement.plan.fusion == "masked_sum" and not agreement.mask_keys:
            raise unlawful(host.name, "join", "sent no masking keys for a run that trains")
        if agreement.resume is None:
            self._heterofed_agree_on_ids(run, host)
        return WHAT_COMES

    def _heterofed_agree_on_ids(self, run: Run, host: Peer) -> None:
        party = party_of(run)
        common = intersect_as_collaborator(
            run, host, self._heterofed_prepare(run), max_peer_ids=self._heterofed_max_peer_ids
        )
        with party.in_phase("split"):
            announces = plan_of(run).announced_split
            announced = announced_split(party, host, common) if announces else None
            theirs = party.take(host, msg.SplitPlan).of(msg.SplitPlan)
            mine = self._heterofed_split(run, common, announced)
            if mine != theirs:
                raise SplitMismatchError(
                    f"split_dataset gave {mine.train_count} train and {mine.test_count} test ids at"
                    f" {party.name}, {theirs.train_count} and {theirs.test_count} at {host.name},"
                    " or others of the same number; use the same function at every party"
                )
            self._heterofed_keep_split(run, len(common))
            party.post(host, msg.SplitAccepted())

    def _heterofed_count_rounds(self, run: Run, host: Peer, first: int) -> None:
        """Hold the rounds that begin, over rollbacks and restarts, against those of the plan.

        Raises:
            RemoteProtocolError: there are more than an honest Host would ever need.
        """
        most = plan_of(run).max_rounds
        if first or not most:
            return
        begun, allowed = ledger_of(run).count(agreement_of(run).run, "rounds"), 2 * most
        allowed += self._heterofed_limits.max_rollbacks
        if begun > allowed:
            what = f"has begun {begun} rounds in a run of {most}, those repeated counted too"
            raise unlawful(host.name, "train", what)

    def _heterofed_check_round_trained(self, run: Run, host: Peer, next_leg: int) -> None:
        """Check that no leg of the round is left, before its test or its end.

        Where features are summed, all have to be tested with the weights of the same batch.

        Raises:
            RemoteProtocolError: batches from `next_leg` on are still to be trained.
        """
        if plan_of(run).checkpoint_batches and self._heterofed_leg(run, next_leg):
            what = f"has a round tested or ended of which {next_leg} batches are trained, not all"
            raise unlawful(host.name, f"train, round {run.round}", what)

    def _heterofed_train_a_leg(self, run: Run, host: Peer, first: int) -> None:
        """Send the features of each train batch, from the first on; step on what comes back.

        The step on batch b comes after the features of batch b + staleness, whenever its gradients
        came: which weights a forward uses is a matter of numbers, not of time. All steps are made
        when the round, or its leg up to a checkpoint, ends.
        """
        party, trainable = party_of(run), self._heterofed_is_feature_trainable
        self._heterofed_set_modes(training=True)
        self._heterofed_watch_movement(run)
        in_flight: deque[InFlight] = deque()
        guard = self._heterofed_guard(run)
        with (
            party.in_phase("train", round_number=run.round, unit="batches"),
            generators_kept(),
        ):
            guard.budget.start()
            feed = FeatureFeed(party, host, first, guard.witness() if trainable else None)
            hook, ids = "iterate_train_feature", self._heterofed_leg(run, first)
            batches = self._heterofed_features(
                run, hook, ids, grad=trainable, in_flight=in_flight, first=first
            )
            for layout, tensors, batch in batches:
                proof = self._heterofed_proof(run, feed, hook, batch)
                if trainable:
                    in_flight.append(InFlight(feed.number, layout, tensors, batch.features))
                feed.send(*guard.masked(layout, tensors, feed.number, testing=False), proof)
                with run.harmless(REPORT):
                    guard.note()  # while the Host works
                del tensors, batch  # before the next ones are made
                while len(in_flight) > host.session.staleness:
                    self._heterofed_update(run, feed, in_flight.popleft())
            if not feed.compares:
                feed.end()
            while in_flight:
                self._heterofed_update(run, feed, in_flight.popleft())
            if feed.compares:  # once all gradients were
                feed.end()
            feed.settle()
            guard.budget.stop()
        run.state["staleness"] = host.session.staleness

    def _heterofed_test(self, run: Run, host: Peer) -> None:
        """Send the features of each test batch, in eval mode."""
        party, guard = party_of(run), self._heterofed_guard(run)
        model = self._heterofed_made("feature_model")
        with (
            party.in_phase("test", round_number=run.round, unit="batches"),
            generators_kept(),
            evaluating(model, *modules_beside(self, [model])),
        ):
            feed = FeatureFeed(party, host)
            hook, ids = "iterate_test_feature", run.state["test_ids"]
            for layout, tensors, batch in self._heterofed_features(run, hook, ids, grad=False):
                proof = self._heterofed_proof(run, feed, hook, batch)
                feed.send(*guard.masked(layout, tensors, feed.number, testing=True), proof)
                del tensors, batch
            feed.end()
            feed.settle()

    def _heterofed_keep_batch(self, run: Run, host: Peer, number: int) -> None:
        party = party_of(run)
        with party.in_phase("checkpoint", round_number=run.round):
            run.batch = number
            self._heterofed_guard(run).note_counts()
            self._heterofed_keep_checkpoint(run, last=False)
            party.post(host, msg.CheckpointHeld(run.round, number))

    def _heterofed_end_round(self, run: Run, host: Peer, *, best: bool, last: bool) -> None:
        party = party_of(run)
        with party.in_phase("checkpoint", round_number=run.round):
            run.batch = 0
            self._heterofed_guard(run).end_round()
            self._heterofed_close_round(run, best=best, last=last)
            party.post(host, msg.CheckpointHeld(run.round))

    def _heterofed_finish(self, run: Run, host: Peer) -> None:
        party = party_of(run)
        with party.in_phase("finish"):
            self._heterofed_save_models(run)
            self._heterofed_guard(run).end()
            run.store.note_finished()
            run.complete = True
            party.leave(host)
            party.close()  # once the goodbye has left, nobody has to be told any more
            run.store.note_finished(plan_of(run).collaborators)

    # -- within ----------------------------------------------------------------------------

    def _heterofed_update(self, run: Run, feed: FeatureFeed, batch: InFlight) -> None:
        """Step on the gradients that count; backward begins with the first that come."""
        guard = self._heterofed_guard(run)
        party_of(run).batch = batch.number
        last: dict[str, Tensor] = {}
        hook, at_once = "update_feature_model", _updates_by_default(self)
        for came in feed.answers():
            last = guard.gradients(batch.number, batch.tensors, came)
            if at_once and last:
                with explaining("iterate_train_feature"):
                    self._heterofed_seeded(
                        hook, self._heterofed_backward, batch.tensors, last, retain=True
                    )
        guard.forget(batch.number)
        if not last:
            return
        if at_once:
            self._heterofed_call_hook(hook, self._heterofed_made("feature_optimizer").step)
        else:
            arranged = gradients_like(batch.layout, batch.tensors, last)
            with explaining("iterate_train_feature"):
                self._heterofed_seeded_hook(hook, batch.features, arranged)

    def _heterofed_backward(
        self, tensors: dict[str, Tensor], gradients: dict[str, Tensor], *, retain: bool = False
    ) -> None:
        self._heterofed_made("feature_optimizer").zero_grad()
        backward(tensors, gradients, retain=retain)

    def _heterofed_features(
        self,
        run: Run,
        hook: str,
        ids: Sequence[str],
        *,
        grad: bool,
        in_flight: Sequence[InFlight] | deque[InFlight] = (),
        first: int = 0,
    ) -> Iterator[tuple[Layout, dict[str, Tensor], Batch]]:
        """What a feature hook yields: as named tensors, checked, and as it was."""

        def around(items: Iterable[Any]) -> Iterator[Any]:
            return ahead(
                items, self._heterofed_weights, lambda: bool(in_flight or host.session.staleness)
            )

        (host,) = party_of(run).peers.values()

        batches = self._heterofed_own_batches(
            run,
            hook,
            ids,
            grad=grad,
            with_labels=False,
            around=around if grad else None,
            first=first,
        )
        testing = hook != "iterate_train_feature"
        for number, batch in enumerate(batches, first):
            layout, tensors = named(batch.features, hook)
            check_finite(tensors, f"what {hook} yielded", self._heterofed_settings.feature_key)
            self._heterofed_guard(run).leaves(batch, len(next(iter(tensors.values()))))
            sent = self._heterofed_guard(run).outgoing(tensors, number, testing=testing)
            if sent is not tensors:
                batch = replace(batch, features=restore(layout, sent))  # noqa: PLW2901
            tensors = sent
            yield layout, tensors, batch
            del tensors, sent, batch

    def _heterofed_guard(self, run: Run) -> CollaboratorGuard:
        """What stands between training and the wire; made once the parties have met."""
        if "guard" not in run.state:
            models = [self._heterofed_made(name) for name in self._heterofed_models]
            trains = self._heterofed_is_feature_trainable
            if not run.predicts:
                check_private(run, self._heterofed_weights_defence, models, trains=trains)
            run.state["guard"] = CollaboratorGuard(
                run,
                shielded(lambda: Budget(self._heterofed_leak_report), REPORT, run.harmless),
                self._heterofed_open_metrics,
                registered_metrics(type(self)),
                self._heterofed_seeded,
                weights=self._heterofed_weights_defence
                if self._heterofed_is_feature_trainable
                else None,
                limits=self._heterofed_limits,
                embeddings=self._heterofed_embedding_defence,
                model=self._heterofed_made("feature_model"),
            )
        guard: CollaboratorGuard = run.state["guard"]
        return guard

    def _heterofed_make_all(self, run: Run) -> None:
        super()._heterofed_make_all(run)
        if self._heterofed_is_feature_trainable and self._heterofed_made("feature_model") is None:
            raise ConfigError(
                "make_feature_model returned None, but this party's features are trainable: is a"
                " return missing? Else pass is_feature_trainable=False"
            )
        if (
            self._heterofed_is_feature_trainable
            and self._heterofed_made("feature_optimizer") is None
        ):
            raise ConfigError(
                "this party's feature model has no weights to train: pass"
                " is_feature_trainable=False"
            )
        self._heterofed_guard(run)

    def _heterofed_accumulates(self) -> bool:
        return super()._heterofed_accumulates() and not _updates_by_default(self)

    def _heterofed_proof(
        self, run: Run, feed: FeatureFeed, hook: str, batch: Batch
    ) -> bytes | None:
        """The digest of a batch's ids (see `order.py`)."""
        order: RowOrder = run.state.setdefault("order", RowOrder(run, self))
        return order.proof(batch.ids, feed.number, rows_of(batch, hook), hook)


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
