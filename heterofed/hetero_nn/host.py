"""The Host: holds the labels, fuses the features of all parties, sends gradients back."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.events import Callback, RoundEnded
from heterofed.hetero_nn.gather import JointBatch, joint_batches
from heterofed.hetero_nn.hooks import HostHooks, streams_tests
from heterofed.hetero_nn.intersection import intersect_as_host
from heterofed.hetero_nn.meeting import as_host
from heterofed.lifecycle import Run, party_of, plan_of
from heterofed.metrics import as_scalar, registered_metrics
from heterofed.party import Party
from heterofed.peers import Peer
from heterofed.protocol import messages as msg
from heterofed.tensors import check_finite, pack
from heterofed.training import (
    EarlyGradients,
    as_leaves,
    evaluating,
    gradients_of,
    sharing_cores,
)

MODELS = ("feature_model", "infer_model")


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
        seed: start of this party's random streams (initial weights, dropout); it stays here. None
            draws a secret one. Give a number, at every party, only to repeat a run: one that others
            can guess tells them the initial weights.
        shuffle: give the train ids in a new agreed order each round.
        early_gradients: send gradients ahead, while `train_a_batch` is still in backward, so that
            the Collaborators work at the same time. Only where `train_a_batch` leaves the features'
            gradients as backward made them: what it changes afterwards (noise, clipping) still
            counts, but the others have seen the unchanged ones.
        psi_protocol: "rsa" (blind signatures) or "ecdh" (an OPRF over ristretto255, faster).
        psi_bits: size of the RSA keys of the intersection, 2048 to 4096.
        results_dir: parent of `<task_id>/<name>`, where results are written.
        callbacks: get every event of the task (see `heterofed.events`).
    """

    # -- the loop --------------------------------------------------------------------------

    def _perform(self, run: Run) -> None:
        self._agree_on_ids(run)
        while True:
            run.round += 1
            began = time.monotonic()
            loss = self._train_a_round(run)
            tested = self._is_test_due(run.round)
            if tested:
                self._test(run)
            finished = bool(self._call_hook("is_task_finished", self.is_task_finished))
            if finished and not tested:
                self._test(run)
            self._end_round(run, loss, time.monotonic() - began)
            if finished:
                break
        self._finish(run)

    @contextmanager
    def _meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        with (
            as_host(
                run,
                self._settings,
                callbacks,
                purpose="train",
                expected=self._collaborators,
                timeouts=self._timeouts(self._calculation_timeout),
                make_plan=self._make_plan,
            ) as party,
            sharing_cores(1 + len(plan_of(run).collaborators)),
        ):
            yield party

    def _agree_on_ids(self, run: Run) -> None:
        party = party_of(run)
        common = intersect_as_host(run, self._prepare(run))
        with party.in_phase("split"):
            party.broadcast(self._split(run, common))
            for peer in party.peers.values():
                party.take(peer, msg.SplitAccepted)

    def _train_a_round(self, run: Run) -> float | None:
        """One pass over the train ids; gives the mean loss, where there is one."""
        party = party_of(run)
        self._set_modes(training=True)
        self._made("infer_model").train()
        recorded: list[dict[str, float]] = []
        with party.in_phase("train", round_number=run.round, unit="batches"):
            party.broadcast(msg.BeginTrain(run.round))
            hook = "iterate_train_feature"
            own = self._own_batches(
                run, hook, self._round_ids(run), grad=self._is_feature_trainable, with_labels=True
            )
            for number, batch in enumerate(
                joint_batches(party, own, hook, self._made("infer_model"))
            ):
                recorded.append(self._step(run, number, batch))
                party.progress(number + 1)
        return self._record_training(run, recorded)

    def _step(self, run: Run, number: int, batch: JointBatch) -> dict[str, float]:
        """Train on one batch, send gradients back; gives the scalars to record."""
        party = party_of(run)
        watched = []
        for each in batch.theirs:
            as_leaves(each.tensors, trainable=each.peer.session.trainable)
            send = functools.partial(_send_gradients, party, each.peer, number)
            early = EarlyGradients(each.tensors, send) if self._early_gradients else None
            watched.append((each, early, send))
        outcome = self._seeded_hook(
            "train_a_batch", batch.projection(party.name), batch.mine.labels
        )
        for each, early, send in watched:
            gradients = gradients_of(each.tensors)
            check_finite(gradients, "the gradient of the features", each.peer.name)
            if early.changed() if early else gradients:
                send(gradients)
            party.post(each.peer, msg.BatchDone(run.round, number, stepped=True))
        if outcome is None:
            return {}
        scalars = outcome if isinstance(outcome, Mapping) else {"loss": outcome}
        return {
            str(key): float(as_scalar(value, f"train_a_batch, {key!r}"))
            for key, value in scalars.items()
        }

    def _test(self, run: Run) -> None:
        party = party_of(run)
        streaming = streams_tests(type(self))
        projections: list[dict[str, Any]] = []
        labels: list[Any] = []
        with (
            party.in_phase("test", round_number=run.round, unit="batches"),
            evaluating(self._made("feature_model"), self._made("infer_model")),
        ):
            party.broadcast(msg.BeginTest(run.round))
            hook = "iterate_test_feature"
            own = self._own_batches(run, hook, run.state["test_ids"], grad=False, with_labels=True)
            for number, batch in enumerate(
                joint_batches(party, own, hook, self._made("infer_model"))
            ):
                projection = batch.projection(party.name)
                if streaming:
                    self._seeded_hook("test_a_batch", projection, batch.mine.labels)
                else:
                    projections.append(projection)
                    labels.append(batch.mine.labels)
                for each in batch.theirs:
                    party.post(each.peer, msg.BatchDone(run.round, number, stepped=False))
                party.progress(number + 1)
            if streaming:
                self._seeded_hook("end_test")
            else:
                self._seeded_hook(
                    "test", batched_feature_projections=projections, batched_labels=labels
                )

    def _end_round(self, run: Run, loss: float | None, seconds: float) -> None:
        party = party_of(run)
        best = bool(run.state.pop("best", False))
        party.broadcast(msg.RoundEnd(run.round, best))
        if best:
            self._save_models(run, MODELS, prefix="best_")
        self._call_hook("on_round_end", self.on_round_end)
        measured = {
            key: value
            for name, metrics in run.metrics.items()
            if name != "train"
            for key, value in metrics.last_of(run.round).items()
            if isinstance(value, int | float)
        }
        party.emit(RoundEnded(run.round, max(self._max_rounds, 0), seconds, loss, measured))

    def _finish(self, run: Run) -> None:
        party = party_of(run)
        with party.in_phase("finish"):
            self._save_models(run, MODELS)
            party.broadcast(msg.Finish(run.round))
            for peer in list(party.peers.values()):
                party.take_leave(peer)

    def _is_test_due(self, round_number: int) -> bool:
        every = self._log_rounds
        return round_number == 1 or (every > 0 and round_number % every == 0)

    def _record_training(self, run: Run, recorded: list[dict[str, float]]) -> float | None:
        """Append this round's means to `train.csv`; gives the mean of `loss`."""
        keys = list(recorded[0]) if recorded else []
        if any(list(each) != keys for each in recorded):
            raise ConfigError(f"train_a_batch must return the same scalars for every batch: {keys}")
        if not keys:
            return None
        means = {key: sum(each[key] for each in recorded) / len(recorded) for key in keys}
        if "train" not in registered_metrics(type(self)):  # else the name is the user's
            if "train" not in run.metrics:
                self._open_metrics(run, "train", keys)
            run.metrics["train"].append_metrics_item(means)
        return means.get("loss")


def _send_gradients(party: Party, peer: Peer, number: int, gradients: dict[str, Tensor]) -> None:
    specs, payload = pack(gradients)
    # Not patient: this may run within the user's backward, where nothing may wait.
    party.post(peer, msg.Gradients(party.round, number, specs), payload, patient=False)
