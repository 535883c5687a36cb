"""The Host: holds the labels, fuses the features of all parties, sends gradients back."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heterofed.compute.autograd import evaluating, sharing_cores
from heterofed.compute.batch import Batch, copied_batch
from heterofed.compute.freshness import explaining
from heterofed.compute.leaves import EarlyGradients
from heterofed.compute.plain import as_truth
from heterofed.compute.staleness import PROBE_BATCHES, Probe
from heterofed.compute.streams import generators_kept, random_stream
from heterofed.compute.tensors import check_finite, pack
from heterofed.errors import ConfigError, FeatureError, PeerLostError
from heterofed.events import Callback, RoundEnded
from heterofed.hetero_nn.hooks import HostHooks, streams_tests
from heterofed.hetero_nn.train.announced_split import announce_split
from heterofed.hetero_nn.train.gradient_relay import TagRelay
from heterofed.hetero_nn.train.joint_batch import (
    JointBatch,
    Received,
    joint_batches,
    leaves_of,
    telling_what_came,
)
from heterofed.hetero_nn.train.privacy_guard import OURS, REPORT, HostGuard, check_private
from heterofed.hetero_nn.train.recording import means_of, scalars_of
from heterofed.hetero_nn.train.row_order import RowOrder
from heterofed.intersection.host import intersect_as_host
from heterofed.messaging.aborts import lost
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.metrics import registered_metrics
from heterofed.privacy.leakage import Budget
from heterofed.protocol import messages as msg
from heterofed.reporting.diagnostics import shielded
from heterofed.reporting.results import TaskResult, write_whole
from heterofed.runs.artifacts import MEANS, FeatureMeans, Which
from heterofed.runs.connect import as_host
from heterofed.runs.extra_modules import modules_beside
from heterofed.runs.run import Run, agreement_of, awaited, earlier, party_of, plan_of

if TYPE_CHECKING:
    import pandas as pd

    from heterofed.hetero_nn.predict.host import Missing

logger = logging.getLogger("heterofed")


class HeteroNNHostScheduler(HostHooks):
    """Subclass it, fill in the hooks, and call `launch_task`.

    Args:
        feature_key: this party's unique key in the task; also its identity.
        name: shown in logs and used for the results folder; the feature key by default.
        max_rounds: rounds (epochs over the train ids) to train.
        calculation_timeout: longest silence (s) of a party that runs user code or heavy compute,
            counted from its last message; announced to all. 0: no limit.
        schedule_timeout: longest silence (s) in steps where a party runs no user code.
        data_channel_timeout: (seconds to establish a link once the peer is there, seconds without
            a byte while one message is moving).
        log_rounds: run `test` after the first round, after every `log_rounds`-th and after the
            last; 0: after the first and the last.
        is_feature_trainable: False freezes this party's feature model.
        collaborators: whom to wait for: how many, or their feature keys.
        join_timeout: seconds to wait for the parties to come online; 0: for ever.
        insecure: run a task whose file lists no keys over TCP in the clear, where anybody on the
            way can read and change everything. For experiments on a network of your own.
        wait_for_peers: seconds that everybody waits for a party that was lost during the task to
            come back, before the task ends; then all go on from their last checkpoint. Announced to
            all. 0: the task ends at once, and goes on when all are started again.
        seed: start of this party's random streams (initial weights, dropout); it stays here. None
            draws a secret one. Give a number, at every party, only to repeat a run: one that others
            can guess tells them the initial weights. The order of rows then hangs on the task id.
        shuffle: give the train ids in a new agreed order each round.
        early_gradients: send gradients ahead, while `train_a_batch` is still in backward, so that
            the Collaborators work at the same time. Only where `train_a_batch` leaves the features'
            gradients as backward made them: what it changes afterwards (noise, clipping) still
            counts, but the others have seen the unchanged ones. With staleness nobody waits for
            them, and they are sent after the step.
        checkpoint_batches: write a checkpoint after every so many batches too, not only after
            rounds; needs `batch_size`, and hooks that use `self.batches(train_ids)`, since they are
            then called once for each such leg of a round. 0: only after rounds.
        batch_size: rows of a batch, agreed by all: `self.batches(ids)` gives them. None: each hook
            cuts its own.
        compress_features: None, "fp16", "bf16" or "int8" (a scale per row): how the Collaborators'
            floating tensors travel. They arrive in their own dtype, rounded.
        compress_gradients: the same for the way back.
        max_staleness: k lets the Collaborators' forwards run up to k steps ahead of the gradients,
            always by exactly as many, so that nobody waits for each round trip; 0 trains the joined
            model exactly. "auto" chooses after the first batches, by how long they take.
        party_dropout: probability that a Collaborator's features of a row are zero in training, for
            models that will predict rows that a party does not have (see `predict`).
        fusion: "masked_sum" has two or more Collaborators mask their features, so that only the sum
            of them can be read; in `train_a_batch` and `test` it stands under "masked_sum", one
            tensor [rows, d], in place of theirs. Their features must be floats of one shape. There
            are no joint predictions then.
        gradient_defence: changes the gradients of the features before they are sent, so that they
            tell less of the labels: `heterofed.privacy.marvell.Marvell(bound=0.6)`, for one.
        label_dp: turns some labels before training: `RandomisedResponse(epsilon)`. Needs
            `Batch(features, labels, ids)` from `iterate_train_feature`.
        weights_defence: trains the Host's own weights by DP-SGD (`heterofed.privacy.dpsgd.DPSGD`).
        max_releases_per_row: how often gradients of any one row may leave in all runs of this task
            together, early ones too; those of one batch for several Collaborators count once. One
            more ends the task with a `ReleaseLimitError` before it leaves; None sets no limit.
        max_epsilon: most that `eps_labels` or `eps_weights` may come to, in all runs together, for
            what this party has a defence for; the task ends like that before it is more.
        max_rollbacks: how often a run may go back to the same checkpoint, whoever asks for it:
            each time the same rows are sent again. Counted on disk, over restarts.
        loss_reduction: whether `train_a_batch` takes the "mean" or the "sum" of its loss over the
            rows; agreed where a party trains by DP-SGD. Models that mix rows are refused then.
        leak_report: "sample" measures what the gradients give away, in at most 3 % of the time;
            "full" measures every batch; "off" nothing. Written to `leakage.csv`.
        psi_protocol: "rsa" (blind signatures) or "ecdh" (an OPRF over ristretto255, faster).
        psi_bits: size of the RSA keys of the intersection, 2048 to 4096.
        max_peer_ids: most ids that any party, this one too, may have intersected; a Collaborator
            in all runs of a task together, those of unchanged sets counted once.
        announce_split: ask `split_dataset` at the Host alone, and tell the others which common ids
            are in which part, and nothing else: for splits by labels, or by columns that only the
            Host has.
        agreed: settings of a layer above the schedulers that all parties are to go by, strings by
            name, such as how ids are written. The Host announces them with its plan; every party
            reads them as `self.agreed`, from `load_local_ids` on. They are no secrets.
        results_dir: parent of `<task_id>/<name>`, where results are written.
        callbacks: get every event of the task (see `heterofed.events`).
    """

    _heterofed_models = ("feature_model", "infer_model")

    def predict(
        self,
        task_id: str,
        ids: Sequence[str] | None = None,
        *,
        models: Which = "last",
        missing_party: Missing = "error",
        parties: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Predict rows jointly, with the models of this task's finished run.

        Every Collaborator has to run `serve_predictions`. Their ids are intersected with those
        asked for, so nobody learns of ids that it does not hold.

        Args:
            task_id: of the finished task.
            ids: of the rows, all of them this party's own; None: of those of `load_predict_ids`
                the ones that all parties have.
            models: those of the last round, or those that `mark_best` kept.
            missing_party: where a Collaborator is missing (for longer than `join_timeout`), or some
                rows of it: raise an error, or let the "mean" of its features in training or "zero"
                stand for them. Then each Collaborator learns which of its ids were asked for.
            parties: whom to wait for; None: all Collaborators of the training. With
                `missing_party="error"` nobody may be left out.

        Returns:
            A pandas DataFrame in the order of `ids` (else sorted): `id`; `prediction`, or a column
            for each that `predict_a_batch` gives; and `parties`, who had the row, joined by "+".

        Raises:
            ConfigError: something at this party cannot work, there is no finished run, or it was
                one with `fusion="masked_sum"`.
            MissingPartyError: not all parties have all rows, or `parties` leaves one out, with
                `missing_party="error"`.
            OtherRunError: the models of a party are not of the same run.
            TaskFailed: the prediction could not go on.
        """
        from heterofed.hetero_nn.predict.host import predict

        return predict(
            self,
            task_id,
            ids,
            models=models,
            missing_party=missing_party,
            parties=parties,
        )

    def _heterofed_rehearse(self, task_id: str) -> TaskResult:
        from heterofed.hetero_nn.train.dry_run import rehearse

        return rehearse(self, task_id)

    # -- the loop --------------------------------------------------------------------------

    def _heterofed_perform(self, run: Run) -> None:
        finished = self._heterofed_begin(run)
        while not finished:
            if not run.batch:
                run.round += 1
            began = time.monotonic()
            loss = self._heterofed_train_a_round(run)
            tested = self._heterofed_is_test_due(run.round)
            if tested:
                self._heterofed_test(run)
            finished = self._heterofed_is_finished()
            if finished and not tested:
                self._heterofed_test(run)
            self._heterofed_end_round(run, loss, time.monotonic() - began, last=finished)
        self._heterofed_finish(run)

    def _heterofed_is_finished(self) -> bool:
        hook = "is_task_finished"
        return as_truth(self._heterofed_call_hook(hook, self.is_task_finished), hook)

    @contextmanager
    def _heterofed_meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        with (
            as_host(
                run,
                self._heterofed_settings,
                callbacks,
                purpose="train",
                expected=self._heterofed_collaborators,
                timeouts=self._heterofed_timeouts(self._heterofed_calculation_timeout),
                make_plan=self._heterofed_make_plan,
                earlier=earlier(run),
            ) as party,
            sharing_cores(1 + len(plan_of(run).collaborators)),
        ):
            yield party

    def _heterofed_begin(self, run: Run) -> bool:
        """Come to where the rounds begin, or go on; gives whether all of them are done."""
        if agreement_of(run).resume is not None:
            return self._heterofed_take_up(run)
        self._heterofed_agree_on_ids(run)
        return False

    def _heterofed_agree_on_ids(self, run: Run) -> None:
        party = party_of(run)
        common = intersect_as_host(run, self._heterofed_prepare(run))
        with party.in_phase("split"):
            split = self._heterofed_split(run, common)
            if plan_of(run).announced_split:
                announce_split(party, common, self.train_ids, self.test_ids)
            party.broadcast(split)
            for peer in party.peers.values():
                party.take(peer, msg.SplitAccepted)
            self._heterofed_keep_split(run, len(common))

    def _heterofed_train_a_round(self, run: Run) -> float | None:
        """One pass over the train ids, or what is left of it; gives the mean loss."""
        recorded: list[dict[str, float]] = run.state.setdefault("recorded", [])
        probe, first, plan = Probe(), run.batch, plan_of(run)
        while True:
            trained = self._heterofed_train_a_leg(run, first, probe, recorded)
            if not trained:
                raise FeatureError(
                    f"iterate_train_feature gave no batch in round {run.round}: it has to begin"
                    " anew in each round"
                )
            first += plan.checkpoint_batches
            if not plan.checkpoint_batches or not self._heterofed_leg(run, first):
                break
            if trained != first:
                raise ConfigError(
                    f"iterate_train_feature gave {trained} batches where {first} were due: with"
                    " checkpoint_batches its batches are those of self.batches(train_ids)"
                )
            self._heterofed_keep_batch(run, first)
        self._heterofed_staleness_from(
            run, PROBE_BATCHES, probe
        )  # the round may have had fewer batches
        run.batch = 0
        FeatureMeans(run.state.pop("means"), run.harmless).save(run.result.folder / MEANS)
        return self._heterofed_record_training(run, run.state.pop("recorded"))

    def _heterofed_train_a_leg(
        self, run: Run, first: int, probe: Probe, recorded: list[dict[str, float]]
    ) -> int:
        """Train on the batches from the first on, as far as the next checkpoint within the round;
        gives how many batches of the round are trained.
        """
        party = party_of(run)
        guard = self._heterofed_guard(run)
        self._heterofed_set_modes(training=True)
        self._heterofed_watch_movement(run)
        trained, means = first, FeatureMeans(run.state.setdefault("means", {}), run.harmless)
        with (
            party.in_phase("train", round_number=run.round, unit="batches"),
            generators_kept(),
        ):
            guard.budget.start()
            party.broadcast(
                msg.BeginTrain(run.round, self._heterofed_staleness_at_start(run, first), first)
            )
            hook = "iterate_train_feature"
            own = self._heterofed_own_batches(
                run,
                hook,
                self._heterofed_leg(run, first),
                grad=self._heterofed_is_feature_trainable,
                with_labels=True,
                first=first,
            )
            for number, batch in enumerate(
                self._heterofed_joint_batches(run, own, hook, first), first
            ):
                worked = party.account.compute + party.account.encode
                probe.note(party.clock(), worked, max(each.work for each in batch.theirs))
                trained = number + 1
                steps = self._heterofed_staleness_from(run, trained, probe)
                for each in batch.theirs:
                    means.add(each.peer.name, each.layout, each.tensors)
                recorded.append(self._heterofed_step(run, number, batch, steps))
                party.progress(trained)
            guard.budget.stop()
        return trained

    def _heterofed_keep_batch(self, run: Run, number: int) -> None:
        """A checkpoint within the round, before batch `number`."""
        party = party_of(run)
        with party.in_phase("checkpoint", round_number=run.round):
            party.broadcast(msg.Checkpoint(run.round, number))
            run.batch = number
            self._heterofed_guard(run).note_counts()
            self._heterofed_keep_checkpoint(run, last=False)
            for peer in party.peers.values():
                party.take(peer, msg.CheckpointHeld)

    def _heterofed_staleness_at_start(self, run: Run, first: int) -> int:
        """Of a round. Where it is chosen the first round begins exactly, also when repeated."""
        agreed = plan_of(run).max_staleness
        if agreed != "auto":
            return agreed
        return run.state.get("staleness", 0) if (run.round, first) > (1, 0) else 0

    def _heterofed_staleness_from(self, run: Run, number: int, probe: Probe) -> int | None:
        """What is to be announced before batch `number`: the choice, once it is due."""
        if plan_of(run).max_staleness != "auto" or (run.round, number) != (1, PROBE_BATCHES):
            return None
        if "staleness" not in run.state:
            run.state["staleness"] = probe.choose()
            logger.info("chose max_staleness=%d: first batches took %s", probe.choose(), probe)
        chosen: int = run.state["staleness"]
        return chosen

    def _heterofed_step(
        self, run: Run, number: int, batch: JointBatch, staleness: int | None = None
    ) -> dict[str, float]:
        """Train on one batch, send gradients back; gives the scalars to record."""
        party, guard = party_of(run), self._heterofed_guard(run)
        watched = []
        sent: list[tuple[Received, dict[str, Tensor], dict[str, Tensor]]] = []
        for each, leaves in leaves_of(batch):
            early = None
            if (
                self._heterofed_early_gradients and not each.peer.session.staleness
            ):  # else nobody waits
                send = functools.partial(_send_gradients, party, each.peer, number)
                early = EarlyGradients(leaves, send)
            watched.append((each, leaves, early))
        seen: list[dict[str, Tensor]] = [{} for _ in batch.theirs]
        with run.harmless(REPORT):
            seen = [guard.measured_part(each.tensors) for each in batch.theirs]
        labels = guard.labels(batch.mine)
        listening = any(each.peer.session.trainable for each in batch.theirs)
        guard.steps(batch.mine, batch.theirs[0].rows, listening=listening)
        rows = {each.peer.name: each.rows for each in batch.theirs}
        projection = batch.projection(party.name, self._heterofed_kept_rows(run, number, rows))
        covered = self._heterofed_made("optimizer").covering([leaves for _, leaves, _ in watched])
        with telling_what_came(projection), explaining("iterate_train_feature"), covered:
            outcome = self._heterofed_seeded_hook("train_a_batch", projection, labels)
        gradients: dict[str, Tensor] = {}
        defended: dict[str, Tensor] = {}
        for each, leaves, early in watched:
            if not batch.sums or not sent:  # of a sum all get the same
                gradients = leaves.gradients()
                check_finite(gradients, "the gradient of the features", each.peer.name)
                defended = guard.outgoing(each.peer.name, gradients, labels)
            last = early.changed() if early else bool(gradients)
            if last:
                _send_gradients(party, each.peer, number, defended, done=staleness is None)
            if not last or staleness is not None:
                done = msg.BatchDone(run.round, number, stepped=True, staleness=staleness)
                party.post(each.peer, done, patient=False)
            sent.append((each, gradients, defended))
        for each in batch.theirs:  # once all have theirs on the way
            party.let_drain(each.peer)
        for (each, gradients, defended), part in zip(sent, seen, strict=True):
            with run.harmless(REPORT):  # while the others work
                guard.note(each.peer.name, gradients, defended, batch.mine.labels, part)
        return self._heterofed_scalars(run, outcome)

    def _heterofed_scalars(self, run: Run, outcome: object) -> dict[str, float]:
        """What `train_a_batch` returned, as numbers by name."""
        return scalars_of(outcome, run.state.setdefault("no numbers", set()))

    def _heterofed_test(self, run: Run) -> None:
        party = party_of(run)
        streaming = streams_tests(type(self))
        projections: list[dict[str, Any]] = []
        labels: list[Any] = []
        models = [self._heterofed_made(name) for name in self._heterofed_models]
        with (
            party.in_phase("test", round_number=run.round, unit="batches"),
            generators_kept(),
            evaluating(*models, *modules_beside(self, models)),
        ):
            party.broadcast(msg.BeginTest(run.round))
            hook = "iterate_test_feature"
            own = self._heterofed_own_batches(
                run, hook, run.state["test_ids"], grad=False, with_labels=True
            )
            for number, batch in enumerate(self._heterofed_joint_batches(run, own, hook)):
                if streaming:
                    features = batch.projection(party.name)
                    with telling_what_came(features):
                        self._heterofed_seeded_hook("test_a_batch", features, batch.mine.labels)
                    del features  # before the next ones come
                else:
                    batch.mine = copied_batch(batch.mine)  # its hook may use the memory again
                    projections.append(batch.projection(party.name))
                    labels.append(batch.mine.labels)
                for each in batch.theirs:
                    party.post(each.peer, msg.BatchDone(run.round, number, stepped=False))
                party.progress(number + 1)
            if streaming:
                self._heterofed_seeded_hook("end_test")
            else:
                with telling_what_came(projections[0] if projections else {}):
                    self._heterofed_seeded_hook(
                        "test", batched_feature_projections=projections, batched_labels=labels
                    )

    def _heterofed_end_round(
        self, run: Run, loss: float | None, seconds: float, *, last: bool
    ) -> None:
        party = party_of(run)
        best = bool(run.state.pop("best", False))
        with party.in_phase("checkpoint", round_number=run.round):
            party.broadcast(msg.RoundEnd(run.round, best, last))
            self._heterofed_guard(run).end_round()
            self._heterofed_close_round(run, best=best, last=last)
            for peer in party.peers.values():
                party.take(peer, msg.CheckpointHeld)
        measured: dict[str, float] = {}
        with run.harmless("the line of the round"):
            measured = {
                key: value
                for name, metrics in run.metrics.items()
                if name not in OURS
                for key, value in metrics.last_of(run.round).items()
                if isinstance(value, int | float)
            }
        party.emit(
            RoundEnded(run.round, max(self._heterofed_max_rounds, 0), seconds, loss, measured)
        )

    def _heterofed_finish(self, run: Run) -> None:
        party = party_of(run)
        with party.in_phase("finish"):
            self._heterofed_save_models(run)
            self._heterofed_guard(run).end()
            gone = run.store.finished() or set()
            run.store.note_finished(gone)
            run.complete = True
            peers = list(party.peers.values())
            for peer in peers:
                with contextlib.suppress(PeerLostError):  # the others are to hear it all the same
                    party.post(peer, msg.Finish(run.round))
            for peer in peers:
                if party.take_leave(peer):
                    gone.add(peer.name)
                    run.store.note_finished(gone)
        if plan_of(run).wait_for_peers and (names := awaited(run)):
            raise lost(names[0], "finish", "no goodbye")

    def _heterofed_kept_rows(
        self, run: Run, number: int, rows: Mapping[str, int]
    ) -> dict[str, Tensor] | None:
        """Which of so many rows of each Collaborator are not dropped (`party_dropout`)."""
        if not self._heterofed_party_dropout:
            return None
        path = (self._heterofed_settings.feature_key, "party_dropout", run.round, number)
        with random_stream(run.seed, *path):
            return {
                name: torch.rand(count) >= self._heterofed_party_dropout
                for name, count in rows.items()
            }

    def _heterofed_save_models(self, run: Run, prefix: str = "") -> None:
        super()._heterofed_save_models(run, prefix)
        if prefix:
            means = (run.result.folder / MEANS).read_bytes()
            write_whole(run.result.folder / f"{prefix}{MEANS}", lambda file: file.write(means))

    def _heterofed_joint_batches(
        self, run: Run, own: Iterator[Batch], hook: str, first: int = 0
    ) -> Iterator[JointBatch]:
        party, plan, relay = party_of(run), plan_of(run), None
        if plan.fusion == "masked_sum":
            if len({each.session.trainable for each in party.peers.values()}) > 1:
                raise ConfigError(
                    "fusion='masked_sum': all Collaborators must train, or all be frozen"
                )
            relay = TagRelay(party, plan.collaborators)
        order, model = self._heterofed_row_order(run), self._heterofed_made("infer_model")
        return joint_batches(party, own, hook, model, order, first, relay=relay)

    def _heterofed_row_order(self, run: Run) -> RowOrder:
        order: RowOrder = run.state.setdefault("order", RowOrder(run, self))
        return order

    def _heterofed_guard(self, run: Run) -> HostGuard:
        """What stands between training and the wire; made once the parties have met."""
        if "guard" not in run.state:
            models = [self._heterofed_made(name) for name in self._heterofed_models]
            check_private(run, self._heterofed_weights_defence, models)
            run.state["guard"] = HostGuard(
                run,
                shielded(lambda: Budget(self._heterofed_leak_report), REPORT, run.harmless),
                self._heterofed_open_metrics,
                registered_metrics(type(self)),
                self._heterofed_seeded,
                weights=self._heterofed_weights_defence,
                gradients=self._heterofed_gradient_defence,
                labels=self._heterofed_label_dp,
                limits=self._heterofed_limits,
                each=1 + self._heterofed_early_gradients,
            )
        guard: HostGuard = run.state["guard"]
        return guard

    def _heterofed_make_all(self, run: Run) -> None:
        super()._heterofed_make_all(run)
        self._heterofed_guard(run)

    def _heterofed_is_test_due(self, round_number: int) -> bool:
        every = self._heterofed_log_rounds
        return round_number == 1 or (every > 0 and round_number % every == 0)

    def _heterofed_record_training(
        self, run: Run, recorded: list[dict[str, float]]
    ) -> float | None:
        """Append this round's means to `train.csv`; gives the mean of `loss`."""
        means = means_of(recorded)
        if means and "train" not in registered_metrics(type(self)):  # else the name is the user's
            if "train" not in run.metrics:
                self._heterofed_open_metrics(run, "train", list(means)).cut(0)
            table = run.metrics["train"]
            table.widen(means)
            table.append_metrics_item(dict.fromkeys(table.keys, math.nan) | means)
        return means.get("loss")


def _send_gradients(
    party: Party, peer: Peer, number: int, gradients: dict[str, Tensor], *, done: bool = False
) -> None:
    with party.encoding(peer, "sent"):
        specs, payload = pack(gradients, peer.session.gradient_coding, party.name)
    # Not patient: this may run within the user's backward, where nothing may wait.
    party.post(peer, msg.Gradients(party.round, number, specs, done), payload, patient=False)
