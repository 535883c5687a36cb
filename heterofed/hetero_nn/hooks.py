"""What a Host's user sees and fills in: constructor, hooks, attributes, and how models are made.

The loop that calls the hooks is in `host.py`.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import Optimizer

from heterofed.compute.autograd import check_model, check_optimizer, has_weights, optimizer_of
from heterofed.compute.joint_optimizer import JointOptimizer
from heterofed.errors import ConfigError
from heterofed.events import Callback
from heterofed.hetero_nn.training_scheduler import TrainingScheduler
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.gradient_defences import GradientDefence
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.leakage import Effort
from heterofed.protocol.plan import (
    MAX_STALENESS,
    Coding,
    Fusion,
    KeyBits,
    LossReduction,
    Plan,
    PSIProtocol,
)
from heterofed.runs.connect import check_collaborators, check_psi
from heterofed.runs.settings import (
    ReleaseLimits,
    Settings,
    Shown,
    check_flag,
    check_seconds,
    is_count,
)


class HostHooks(TrainingScheduler):
    """The Host without its loop; see `HeteroNNHostScheduler`."""

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
        insecure: bool = False,
        wait_for_peers: float = 0,
        seed: int | None = None,
        shuffle: bool = False,
        early_gradients: bool = False,
        batch_size: int | None = None,
        checkpoint_batches: int = 0,
        compress_features: Literal["fp16", "bf16", "int8"] | None = None,
        compress_gradients: Literal["fp16", "bf16", "int8"] | None = None,
        max_staleness: int | Literal["auto"] = 0,
        party_dropout: float = 0.0,
        fusion: Fusion = "separate",
        gradient_defence: GradientDefence | None = None,
        label_dp: RandomisedResponse | None = None,
        weights_defence: DPSGD | None = None,
        max_releases_per_row: int | None = None,
        max_epsilon: float | None = None,
        max_rollbacks: int = 10,
        loss_reduction: LossReduction | None = None,
        leak_report: Effort = "sample",
        psi_protocol: PSIProtocol = "rsa",
        psi_bits: KeyBits = 2048,
        max_peer_ids: int = 10_000_000,
        announce_split: bool = False,
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
        self._heterofed_max_rounds = max_rounds
        self._heterofed_calculation_timeout = calculation_timeout
        self._heterofed_log_rounds = log_rounds
        self._heterofed_is_feature_trainable = is_feature_trainable
        self._heterofed_collaborators = collaborators
        self._heterofed_wait_for_peers = wait_for_peers
        self._heterofed_shuffle = shuffle
        self._heterofed_early_gradients = early_gradients
        self._heterofed_batch_size = batch_size
        self._heterofed_checkpoint_batches = checkpoint_batches
        self._heterofed_compress_features = compress_features
        self._heterofed_compress_gradients = compress_gradients
        self._heterofed_party_dropout = party_dropout
        self._heterofed_max_staleness = max_staleness
        self._heterofed_fusion = fusion
        self._heterofed_gradient_defence = gradient_defence
        self._heterofed_label_dp = label_dp
        self._heterofed_weights_defence = weights_defence
        self._heterofed_loss_reduction = loss_reduction
        self._heterofed_leak_report = leak_report
        self._heterofed_psi_protocol = psi_protocol
        self._heterofed_psi_bits = psi_bits
        self._heterofed_max_peer_ids = max_peer_ids
        self._heterofed_announce_split = announce_split
        self._heterofed_limits = ReleaseLimits(max_releases_per_row, max_epsilon, max_rollbacks)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if streams_tests(cls) and getattr(cls.test, "__isabstractmethod__", False):
            cls.test = _tests_in_batches  # type: ignore[method-assign]

    # -- hooks -----------------------------------------------------------------------------

    @abstractmethod
    def make_infer_model(self) -> nn.Module | None:
        """Hook: the model on top of the fused features; None, or one without weights, where the
        features are fused as they are (as in a logistic regression, by their sum).
        """

    @abstractmethod
    def make_infer_optimizer(self, infer_model: nn.Module) -> Optimizer | None:
        """Hook: the optimizer of the infer model; not asked where there is none. None where it has
        no weights.
        """

    @abstractmethod
    def train_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> Any:
        """Hook: one step: fuse the features, forward, loss, backward, `self.optimizer.step()`.

        Args:
            feature_projection: features by feature key, each as its hook yielded it, [rows, ...];
                without the Host's key where it is label-only.
            labels: what `iterate_train_feature` yielded beside the features.

        Returns:
            None, a 0-d loss or a dict of scalars, recorded in `train.csv` as means per round, each
            over the batches that returned it.
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

    def load_predict_ids(self) -> Iterable[str]:
        """Hook: the ids that `predict` is for where it is given none; by default all own ones.

        Of these the ones that all parties have are predicted.
        """
        return self.load_local_ids()

    def predict_a_batch(self, feature_projection: dict[str, Any]) -> Any:
        """Hook: predictions of one batch, in eval mode and without gradients; only for `predict`.

        Args:
            feature_projection: features by feature key, as in `train_a_batch`.

        Returns:
            A tensor [rows] or [rows, columns], or a dict of them by column name.
        """
        raise NotImplementedError

    def is_task_finished(self) -> bool:
        """Hook: asked after each round; by default whether `max_rounds` are done."""
        return self._is_reach_max_rounds()

    def validate_context(self) -> None:
        """Hook: check settings before anything else; call `super().validate_context()`.

        Raises:
            ConfigError: a setting of the constructor cannot work.
        """
        super().validate_context()
        check_seconds("calculation_timeout", self._heterofed_calculation_timeout)
        check_seconds("wait_for_peers", self._heterofed_wait_for_peers)
        check_flag("shuffle", self._heterofed_shuffle)
        check_flag("early_gradients", self._heterofed_early_gradients)
        check_flag("announce_split", self._heterofed_announce_split)
        if self._heterofed_uses_default_end() and not is_count(self._heterofed_max_rounds, least=1):
            raise ConfigError(
                f"max_rounds={self._heterofed_max_rounds!r}: give a whole number of rounds from 1"
                " on, or define is_task_finished"
            )
        if not is_count(self._heterofed_log_rounds):
            raise ConfigError(
                f"log_rounds={self._heterofed_log_rounds!r}: give 0 or a number of rounds"
            )
        check_staleness(self._heterofed_max_staleness)
        check_compression("compress_features", self._heterofed_compress_features)
        check_compression("compress_gradients", self._heterofed_compress_gradients)
        if self._heterofed_batch_size is not None and not (
            is_count(self._heterofed_batch_size, least=1) and self._heterofed_batch_size <= 2**31
        ):
            raise ConfigError(
                f"batch_size={self._heterofed_batch_size!r}: give a number of rows, or None"
            )
        if (
            not is_count(self._heterofed_checkpoint_batches)
            or self._heterofed_checkpoint_batches > 2**31
        ):
            raise ConfigError(
                f"checkpoint_batches={self._heterofed_checkpoint_batches!r}: give 0 or a number of"
                " batches"
            )
        if self._heterofed_checkpoint_batches and not self._heterofed_batch_size:
            raise ConfigError(
                "checkpoint_batches needs batch_size: give it, and use self.batches in the hooks"
            )
        if (
            isinstance(self._heterofed_party_dropout, bool)
            or not 0 <= self._heterofed_party_dropout < 1
        ):
            raise ConfigError(
                f"party_dropout={self._heterofed_party_dropout!r}: give a probability from 0 to"
                " below 1"
            )
        self._heterofed_check_privacy()
        check_psi(
            self._heterofed_psi_protocol, self._heterofed_psi_bits, self._heterofed_max_peer_ids
        )
        check_collaborators(self._heterofed_collaborators, self._heterofed_settings.feature_key)

    def _heterofed_check_privacy(self) -> None:
        defended = (
            self._heterofed_label_dp is not None or self._heterofed_weights_defence is not None
        )
        self._heterofed_limits.check(defended=defended)
        if self._heterofed_fusion not in get_args(Fusion):
            raise ConfigError(f"fusion={self._heterofed_fusion!r}: give one of {get_args(Fusion)}")
        if self._heterofed_fusion == "masked_sum" and (
            self._heterofed_collaborators == 1 or self._heterofed_early_gradients
        ):
            raise ConfigError(
                "fusion='masked_sum' needs two Collaborators or more (of one, the sum is its"
                " features), and no early_gradients"
            )
        if self._heterofed_fusion == "masked_sum" and self._heterofed_party_dropout:
            raise ConfigError("party_dropout drops one party's features; a masked sum has no parts")
        if self._heterofed_loss_reduction not in {None, *get_args(LossReduction)}:
            raise ConfigError(
                f"loss_reduction={self._heterofed_loss_reduction!r}: give 'mean' or 'sum'"
            )
        if self._heterofed_weights_defence is not None and self._heterofed_loss_reduction is None:
            raise ConfigError(
                "weights_defence needs loss_reduction: say whether train_a_batch takes the mean or"
                " the sum of its loss over the rows"
            )
        if self._heterofed_loss_reduction is not None and self._heterofed_early_gradients:
            raise ConfigError(
                "loss_reduction (for DP-SGD) and early_gradients: a second backward, where"
                " train_a_batch changes gradients, would count each sample twice; give one of them"
            )
        if self._heterofed_gradient_defence is not None and self._heterofed_early_gradients:
            raise ConfigError(
                "gradient_defence and early_gradients: early ones travel before the defence; give"
                " one of the two"
            )

    # -- what hooks may call and read ---------------------------------------------------------

    @Shown
    def max_rounds(self) -> int:
        """As given to the constructor."""
        return self._heterofed_max_rounds

    @Shown
    def log_rounds(self) -> int:
        """As given to the constructor."""
        return self._heterofed_log_rounds

    @Shown
    def calculation_timeout(self) -> float:
        """As given to the constructor, in seconds."""
        return self._heterofed_calculation_timeout

    @Shown
    def infer_model(self) -> Any:
        """The model on top of the fused features; made on first use in a run."""
        return self._heterofed_made("infer_model")

    @Shown
    def infer_optimizer(self) -> Any:
        """The infer model's optimizer."""
        return self._heterofed_made("infer_optimizer")

    @Shown
    def optimizer(self) -> JointOptimizer:
        """All optimizers of the Host as one `torch.optim.Optimizer`; its `zero_grad` clears the
        gradients of received features too.
        """
        optimizer: JointOptimizer = self._heterofed_made("optimizer")
        return optimizer

    def mark_best(self) -> None:
        """Have every party keep this round's weights as `best_<model>.pt`; for use in `test`.

        Raises:
            ConfigError: no round is running.
        """
        if self._heterofed_run is None or self._heterofed_run.round == 0:
            raise ConfigError("mark_best: there is no round yet; call it in test")
        self._heterofed_run.state["best"] = True

    def _is_reach_max_rounds(self) -> bool:
        return (
            self._heterofed_run is not None
            and self._heterofed_run.round >= self._heterofed_max_rounds
        )

    # -- within ----------------------------------------------------------------------------

    def _heterofed_makers(self) -> dict[str, Callable[[], Any]]:
        return super()._heterofed_makers() | {
            "infer_model": self._heterofed_make_infer_model,
            "infer_optimizer": self._heterofed_make_infer_optimizer,
            "optimizer": lambda: JointOptimizer(
                [
                    each
                    for each in (
                        self._heterofed_made("infer_optimizer"),
                        self._heterofed_made("feature_optimizer"),
                    )
                    if each is not None
                ]
            ),
        }

    def _heterofed_make_infer_model(self) -> nn.Module | None:
        model = check_model(self._heterofed_seeded_hook("make_infer_model"), "make_infer_model")
        return self._heterofed_private_model(model) if has_weights(model) else model

    def _heterofed_make_infer_optimizer(self) -> Optimizer | None:
        model = self._heterofed_made("infer_model")
        if model is None:
            return None
        hook = "make_infer_optimizer"
        made = optimizer_of(model, functools.partial(self._heterofed_seeded_hook, hook))
        optimizer = check_optimizer(made, hook)
        if optimizer is None:
            if any(each.requires_grad for each in model.parameters()):
                raise ConfigError(
                    "make_infer_optimizer returned None, and the infer model has weights; return an"
                    " optimizer, or freeze them by requires_grad_(False)"
                )
            return None
        parts = 1 if self._heterofed_made("feature_optimizer") is None else self._heterofed_parts()
        return self._heterofed_private_optimizer(optimizer, parts=parts)

    def _heterofed_set_modes(self, training: bool) -> None:
        super()._heterofed_set_modes(training)
        if (model := self._heterofed_made("infer_model")) is not None:
            model.train(training)

    def _heterofed_parts(self) -> int:
        return 1 + has_weights(self._heterofed_made("infer_model"))

    def _heterofed_make_plan(self, collaborators: tuple[str, ...]) -> Plan:
        return Plan(
            host=self._heterofed_settings.feature_key,
            collaborators=collaborators,
            max_rounds=self._heterofed_max_rounds if self._heterofed_uses_default_end() else 0,
            seed=self._heterofed_run.order if self._heterofed_run else 0,
            shuffle=self._heterofed_shuffle,
            checkpoint_batches=self._heterofed_checkpoint_batches,
            batch_size=self._heterofed_batch_size or 0,
            compress_features=self._heterofed_compress_features or "none",
            compress_gradients=self._heterofed_compress_gradients or "none",
            loss_reduction=self._heterofed_loss_reduction,
            fusion=self._heterofed_fusion,
            max_staleness=self._heterofed_max_staleness,
            calculation_timeout=float(self._heterofed_calculation_timeout),
            schedule_timeout=float(self._heterofed_settings.schedule_timeout),
            wait_for_peers=float(self._heterofed_wait_for_peers),
            psi_protocol=self._heterofed_psi_protocol,
            psi_bits=self._heterofed_psi_bits,
            max_peer_ids=self._heterofed_max_peer_ids,
            announced_split=self._heterofed_announce_split,
            agreed=tuple(sorted(self._heterofed_settings.agreed.items())),
        )

    def _heterofed_predicts(self) -> bool:
        return type(self).predict_a_batch is not HostHooks.predict_a_batch

    def _heterofed_uses_default_end(self) -> bool:
        return type(self).is_task_finished is HostHooks.is_task_finished


def check_staleness(steps: object) -> None:
    """Check how far forwards may run ahead.

    Raises:
        ConfigError: neither "auto" nor a number of steps.
    """
    if steps != "auto" and (not is_count(steps) or steps not in range(MAX_STALENESS + 1)):
        raise ConfigError(
            f"max_staleness={steps!r}: give a number of steps from 0 (exact) to {MAX_STALENESS},"
            ' or "auto"'
        )


def check_compression(name: str, coding: object) -> None:
    """Check how tensors are to travel.

    Raises:
        ConfigError: a coding that there is not.
    """
    known = get_args(Coding)
    if coding is not None and coding not in known:
        names = ", ".join(f'"{each}"' for each in known[1:])
        raise ConfigError(f"{name}={coding!r}: give None (as they are) or one of {names}")


def _tests_in_batches(*_: Any, **__: Any) -> None:
    """Stands for `test` where a class tests batch by batch."""


def streams_tests(cls: type[HostHooks]) -> bool:
    return cls.test_a_batch is not HostHooks.test_a_batch
