"""Makes the models and optimizers of a run with the user's hooks, checks them and wraps them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.compute.autograd import check_model, check_optimizer, has_weights, optimizer_of
from heterofed.compute.joint_optimizer import JointOptimizer
from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.sharded import spread
from heterofed.compute.workers.sharding import divide, keep_whole
from heterofed.errors import ConfigError
from heterofed.hetero_nn.settings import HalfSettings
from heterofed.runs.hook_streams import SeededHooks
from heterofed.runs.models import ModelRegistry


class HalfModels(ModelRegistry):
    """A Collaborator's feature model and its optimizer.

    Args:
        hooks: calls the hooks that make them.
        settings: the settings of the party.
        more: functions that make further models and optimizers, by name.
        saved: the names of further models that are written to the results folder.

    Attributes:
        exchange: the connections to further processes that compute the feature model too.
    """

    exchange: Exchange | None = None

    def __init__(
        self,
        hooks: SeededHooks,
        settings: HalfSettings,
        more: Mapping[str, Callable[[], Any]] | None = None,
        saved: tuple[str, ...] = (),
    ) -> None:
        makers = {
            "feature_model": self._make_feature_model,
            "feature_optimizer": self._make_feature_optimizer,
        }
        super().__init__({**makers, **(more or {})}, ("feature_model", *saved))
        self._hooks, self._settings = hooks, settings

    @property
    def feature_model(self) -> nn.Module | None:
        """This party's half of the model."""
        model: nn.Module | None = self.made("feature_model")
        return model

    @property
    def feature_optimizer(self) -> Any:
        """The optimizer of the feature model; None at a frozen party."""
        return self.made("feature_optimizer")

    def set_modes(self, *, training: bool) -> None:
        """Set the feature model to train mode in training unless it is frozen, and else to eval
        mode.
        """
        if self.feature_model is not None:
            self.feature_model.train(training and self._settings.is_feature_trainable)

    def feature_weights(self) -> Iterator[Tensor]:
        """Yield all tensors that a step on the features changes, of the model or in its
        optimizer. Frozen weights, which may be most of a large model, are none of them.
        """
        model, optimizer = self.feature_model, self.feature_optimizer
        own = model.parameters() if model is not None else ()
        yield from (each for each in own if each.requires_grad)
        for group in optimizer.param_groups if optimizer is not None else ():
            yield from group["params"]

    def trained(self) -> dict[str, nn.Module | None]:
        """Return the models that training changes, by name."""
        frozen = () if self._settings.is_feature_trainable else ("feature_model",)
        return {name: self.made(name) for name in self.saved if name not in frozen}

    def check_trains(self) -> None:
        """Refuse a party that is to be trained but has nothing to train.

        Raises:
            ConfigError: its features are trainable, and it has no model or no weights.
        """
        if not self._settings.is_feature_trainable:
            return
        if self.feature_model is None:
            raise ConfigError(
                "make_feature_model returned None, but this party's features are trainable; return"
                " the model, or pass is_feature_trainable=False"
            )
        if self.feature_optimizer is None:
            raise ConfigError(
                "this party's feature model has no weights to train: pass"
                " is_feature_trainable=False"
            )

    def _make_feature_model(self) -> nn.Module | None:
        hook = "make_feature_model"
        model = check_model(self._hooks.seeded(hook), hook)
        if self.exchange is not None and model is not None:
            self._spread(model, self.exchange)
        return self._private_model(model) if self._settings.is_feature_trainable else model

    def _spread(self, model: nn.Module, exchange: Exchange) -> None:
        if self._settings.weights_defence is not None:
            raise ConfigError(
                "weights_defence needs the gradient of each row in one process: start this party"
                " without torchrun"
            )
        if self._settings.shard_feature_model:
            divide(model, exchange)
        else:
            spread(model, exchange)

    def _make_feature_optimizer(self) -> Optimizer | None:
        model = self.feature_model
        if model is None or not self._settings.is_feature_trainable:
            return None
        hook, parts = "make_feature_optimizer", self._parts()
        made = optimizer_of(model, functools.partial(self._hooks.seeded, hook))
        optimizer = check_optimizer(made, hook)
        if optimizer is None and not has_weights(model):
            return None
        if optimizer is None:
            raise ConfigError(
                "make_feature_optimizer returned None, but this party's features are trainable;"
                " return an optimizer, or pass is_feature_trainable=False"
            )
        if self._settings.shard_feature_model:
            keep_whole(optimizer)
        return self._private_optimizer(optimizer, parts=parts, counts=parts == 1)

    def _parts(self) -> int:
        """Return the number of optimizers that step together, if the feature model has one."""
        return 1

    def _private_model(self, model: nn.Module | None) -> nn.Module | None:
        """Return the model, prepared for DP-SGD if this party trains by it."""
        defence = self._settings.weights_defence
        return model if defence is None or model is None else defence.model(model)

    def _private_optimizer(
        self, optimizer: Optimizer, *, parts: int = 1, counts: bool = True
    ) -> Optimizer:
        """Return the optimizer, wrapped if this party trains by DP-SGD."""
        defence = self._settings.weights_defence
        if defence is None:
            return optimizer
        return defence.optimizer(optimizer, parts=parts, counts=counts)


class HostModels(HalfModels):
    """The Host's feature model, its model on top of the fused features, and their optimizers."""

    def __init__(self, hooks: SeededHooks, settings: HalfSettings) -> None:
        more = {
            "infer_model": self._make_infer_model,
            "infer_optimizer": self._make_infer_optimizer,
            "optimizer": self._make_optimizer,
        }
        super().__init__(hooks, settings, more, ("infer_model",))

    @property
    def infer_model(self) -> nn.Module | None:
        """The model on top of the fused features."""
        model: nn.Module | None = self.made("infer_model")
        return model

    def set_modes(self, *, training: bool) -> None:
        """Set the modes of both models; the model on top is never frozen."""
        super().set_modes(training=training)
        if self.infer_model is not None:
            self.infer_model.train(training)

    def check_trains(self) -> None:
        """Accept any models, because a Host may have only labels and nothing to train."""

    def _make_infer_model(self) -> nn.Module | None:
        hook = "make_infer_model"
        model = check_model(self._hooks.seeded(hook), hook)
        return self._private_model(model) if has_weights(model) else model

    def _make_infer_optimizer(self) -> Optimizer | None:
        model = self.infer_model
        if model is None:
            return None
        hook = "make_infer_optimizer"
        made = optimizer_of(model, functools.partial(self._hooks.seeded, hook))
        optimizer = check_optimizer(made, hook)
        if optimizer is None:
            if any(each.requires_grad for each in model.parameters()):
                raise ConfigError(
                    "make_infer_optimizer returned None, and the infer model has weights; return an"
                    " optimizer, or freeze them by requires_grad_(False)"
                )
            return None
        parts = 1 if self.feature_optimizer is None else self._parts()
        return self._private_optimizer(optimizer, parts=parts)

    def _make_optimizer(self) -> JointOptimizer:
        both = self.made("infer_optimizer"), self.feature_optimizer
        return JointOptimizer([each for each in both if each is not None])

    def _parts(self) -> int:
        return 1 + has_weights(self.infer_model)
