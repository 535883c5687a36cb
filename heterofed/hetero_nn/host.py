"""The Host: holds the labels, fuses the features of all parties, sends gradients back."""

from __future__ import annotations

import functools
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.errors import ConfigError
from heterofed.events import Callback, RoundEnded
from heterofed.hetero_nn.gather import JointBatch, joint_batches
from heterofed.hetero_nn.intersection import intersect_as_host
from heterofed.hetero_nn.meeting import as_host, check_collaborators, check_key_bits
from heterofed.lifecycle import Run, Settings, Shown, check_seconds, party_of, plan_of
from heterofed.metrics import as_scalar
from heterofed.party import Party, Peer
from heterofed.plan import KeyBits, Plan
from heterofed.protocol import messages as msg
from heterofed.scheduler import TrainingScheduler
from heterofed.tensors import check_finite, pack
from heterofed.training import (
    EarlyGradients,
    OptimizerGroup,
    as_leaves,
    check_model,
    check_optimizer,
    evaluating,
    gradients_of,
    sharing_cores,
)

MODELS = ("feature_model", "infer_model")


class HeteroNNHostScheduler(TrainingScheduler):
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
        seed: start of every random stream of the task.
        shuffle: give the train ids in a new agreed order each round.
        psi_bits: size of the RSA keys of the intersection, 2048 to 4096.
        results_dir: parent of `<task_id>/<name>`, where results are written.
        callbacks: get every event of the task (see `heterofed.events`).
    """

    def __init__(
        self,
        feature_key: str,
        name: str | None = None,
        max_rounds: int = 0,
        calculation_timeout: float = 300,
        schedule_timeout: float = 30,
        data_channel_timeout: tuple[float, float] = (30, 60),
        log_rounds: int = 0,
        is_feature_trainable: bool = True,
        *,
        collaborators: int | Sequence[str] = 1,
        join_timeout: float = 3600,
        seed: int = 0,
        shuffle: bool = False,
        psi_bits: KeyBits = 2048,
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
        )
        self._max_rounds = max_rounds
        self._calculation_timeout = calculation_timeout
        self._log_rounds = log_rounds
        self._is_feature_trainable = is_feature_trainable
        self._collaborators = collaborators
        self._seed = seed
        self._shuffle = shuffle
        self._psi_bits = psi_bits

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if _streams_tests(cls) and getattr(cls.test, "__isabstractmethod__", False):
            cls.test = _tests_in_batches  # type: ignore[method-assign]

    # -- hooks -----------------------------------------------------------------------------

    @abstractmethod
    def make_infer_model(self) -> nn.Module:
        """Hook: the model on top of the fused features."""

    @abstractmethod
    def make_infer_optimizer(self, infer_model: nn.Module) -> Optimizer:
        """Hook: the optimizer of the infer model."""

    @abstractmethod
    def train_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> Any:
        """Hook: one step: fuse the features, forward, loss, backward, `self.optimizer.step()`.

        Args:
            feature_projection: features by feature key, each as its hook yielded it, [rows, ...];
                without the Host's key where it is label-only.
            labels: what `iterate_train_feature` yielded beside the features.

        Returns:
            None, a 0-d loss or a dict of scalars, recorded in `train.csv` as means per round.
        """

    @abstractmethod
    def test(
        self, batched_feature_projections: list[dict[str, Any]], batched_labels: list[Any]
    ) -> None:
        """Hook: measure the models on the test batches, in eval mode and without gradients.

        Args:
            batched_feature_projections: one dict per batch, as in `train_a_batch`.
            batched_labels: labels of the same batches.
        """

    def test_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> None:
        """Hook: measure one test batch, instead of `test`, for test sets that do not fit in memory.

        Args:
            feature_projection: features by feature key, as in `train_a_batch`.
            labels: labels of the same rows.
        """

    def end_test(self) -> None:
        """Hook: all test batches went through `test_a_batch`; the place to append metrics."""

    def is_task_finished(self) -> bool:
        """Hook: asked after each round; by default whether `max_rounds` are done."""
        return self._is_reach_max_rounds()

    def validate_context(self) -> None:
        """Hook: check settings before anything else; call `super().validate_context()`.

        Raises:
            ConfigError: a setting of the constructor cannot work.
        """
        super().validate_context()
        check_seconds("calculation_timeout", self._calculation_timeout)
        if self._uses_default_end() and not _is_count(self._max_rounds, least=1):
            raise ConfigError(
                f"max_rounds={self._max_rounds!r}: give a whole number of rounds from 1 on, or"
                " define is_task_finished"
            )
        if not _is_count(self._log_rounds):
            raise ConfigError(f"log_rounds={self._log_rounds!r}: give 0 or a number of rounds")
        if not _is_count(self._seed):
            raise ConfigError(f"seed={self._seed!r}: give a whole number from 0 on")
        check_key_bits(self._psi_bits)
        check_collaborators(self._collaborators)

    # -- what hooks may call and read ---------------------------------------------------------

    @Shown
    def infer_model(self) -> Any:
        """The model on top of the fused features; made on first use in a run."""
        return self._made("infer_model")

    @Shown
    def infer_optimizer(self) -> Any:
        """The infer model's optimizer."""
        return self._made("infer_optimizer")

    @Shown
    def optimizer(self) -> OptimizerGroup:
        """All optimizers of the Host as one: `zero_grad()` and `step()`."""
        group: OptimizerGroup = self._made("optimizer")
        return group

    def mark_best(self) -> None:
        """Have every party keep this round's weights as `best_<model>.pt`; for use in `test`.

        Raises:
            ConfigError: no round is running.
        """
        if self._run is None or self._run.round == 0:
            raise ConfigError("mark_best: there is no round yet; call it in test")
        self._run.state["best"] = True

    def _is_reach_max_rounds(self) -> bool:
        return self._run is not None and self._run.round >= self._max_rounds

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
            watched.append((each, EarlyGradients(each.tensors, send), send))
        outcome = self._seeded_hook(
            "train_a_batch", batch.projection(party.name), batch.mine.labels
        )
        for each, early, send in watched:
            gradients = gradients_of(each.tensors)
            check_finite(gradients, "the gradient of the features", each.peer.name)
            if early.changed():
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
        streaming = _streams_tests(type(self))
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
            for peer in party.peers.values():
                party.take_leave(peer)

    # -- within ----------------------------------------------------------------------------

    def _makers(self) -> dict[str, Callable[[], Any]]:
        return super()._makers() | {
            "infer_model": self._make_infer_model,
            "infer_optimizer": self._make_infer_optimizer,
            "optimizer": lambda: OptimizerGroup(
                [
                    each
                    for each in (self._made("infer_optimizer"), self._made("feature_optimizer"))
                    if each is not None
                ]
            ),
        }

    def _make_infer_model(self) -> nn.Module:
        model = check_model(self._seeded_hook("make_infer_model"), "make_infer_model")
        if model is None:
            raise ConfigError("make_infer_model returned None; the Host needs an infer model")
        return model

    def _make_infer_optimizer(self) -> Optimizer:
        optimizer = check_optimizer(
            self._seeded_hook("make_infer_optimizer", self._made("infer_model")),
            "make_infer_optimizer",
        )
        if optimizer is None:
            raise ConfigError("make_infer_optimizer returned None; the infer model needs one")
        return optimizer

    def _make_plan(self, collaborators: tuple[str, ...]) -> Plan:
        return Plan(
            host=self._settings.feature_key,
            collaborators=collaborators,
            max_rounds=max(self._max_rounds, 0),
            seed=self._seed,
            shuffle=self._shuffle,
            calculation_timeout=float(self._calculation_timeout),
            schedule_timeout=float(self._settings.schedule_timeout),
            psi_bits=self._psi_bits,
        )

    def _is_test_due(self, round_number: int) -> bool:
        every = self._log_rounds
        return round_number == 1 or (every > 0 and round_number % every == 0)

    def _record_training(self, run: Run, recorded: list[dict[str, float]]) -> float | None:
        """Append this round's means to `train.csv`; gives the mean of `loss`."""
        keys = list(recorded[0]) if recorded else []
        if not keys:
            return None
        means = {key: sum(each[key] for each in recorded) / len(recorded) for key in keys}
        if "train" not in run.metrics:
            self._open_metrics(run, "train", keys)
        run.metrics["train"].append_metrics_item(means)
        return means.get("loss")

    def _uses_default_end(self) -> bool:
        return type(self).is_task_finished is HeteroNNHostScheduler.is_task_finished


def _tests_in_batches(*_: Any, **__: Any) -> None:
    """Stands for `test` where a class tests batch by batch."""


def _streams_tests(cls: type[HeteroNNHostScheduler]) -> bool:
    return cls.test_a_batch is not HeteroNNHostScheduler.test_a_batch


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _send_gradients(party: Party, peer: Peer, number: int, gradients: dict[str, Tensor]) -> None:
    specs, payload = pack(gradients)
    party.post(peer, msg.Gradients(party.round, number, specs), payload)
