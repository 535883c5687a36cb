"""Makes the model and the optimizer of a Collaborator, and pulls their steps to the start."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.compute.autograd import check_model, check_optimizer, optimizer_of
from heterofed.errors import ConfigError
from heterofed.privacy.dpsgd import DPSGD
from heterofed.protocol.plan import Averaging
from heterofed.runs.hook_streams import SeededHooks
from heterofed.runs.models import ModelRegistry
from heterofed.runs.run import Run


class LocalModels(ModelRegistry):
    """The model and the optimizer of one party in one run.

    Args:
        hooks: calls the hooks that make them.
        run: the run.
        defence: the DP-SGD of this party, if it trains by it.
    """

    def __init__(self, hooks: SeededHooks, run: Run, defence: DPSGD | None) -> None:
        makers = {"model": self._make_model, "optimizer": self._make_optimizer}
        super().__init__(makers, ("model",))
        self._hooks, self._run, self._defence = hooks, run, defence
        self._start: dict[Tensor, Tensor] = {}

    @property
    def model(self) -> nn.Module:
        """The model of this party."""
        model: nn.Module = self.made("model")
        return model

    def begin_round(self) -> None:
        """Note the weights towards which the steps of this round are pulled (FedProx)."""
        if self._averaging.proximal:
            self._start = {each: each.detach().clone() for each in self.model.parameters()}

    @property
    def _averaging(self) -> Averaging:
        """The settings of the task, also in a complete run whose parties do not connect again."""
        run = self._run
        plan = run.maybe_agreement.plan if run.maybe_agreement else run.kept_record.plan
        return plan.averaging or Averaging()

    def _make_model(self) -> nn.Module:
        model = check_model(self._hooks.seeded("make_model"), "make_model")
        if model is None:
            raise ConfigError("make_model returned None; return the model")
        return self._defence.model(model) if self._defence else model

    def _make_optimizer(self) -> Optimizer | None:
        averaging = self._averaging
        if averaging.sends == "gradients":
            return None
        hook = "make_optimizer"
        made: Any = optimizer_of(self.model, functools.partial(self._hooks.seeded, hook))
        optimizer = check_optimizer(made, hook)
        if optimizer is None:
            raise ConfigError("make_optimizer returned None; return the optimizer")
        if averaging.proximal:
            for each in made if isinstance(made, list | tuple) else [made]:
                each.register_step_pre_hook(functools.partial(self._pull, averaging.proximal))
        return self._defence.optimizer(optimizer) if self._defence else optimizer

    def _pull(self, mu: float, optimizer: Optimizer, *_: Any) -> None:
        """Add the gradient of mu/2 * ||w - w_start||^2 before a step of the optimizer."""
        with torch.no_grad():
            for group in optimizer.param_groups:
                for each in group["params"]:
                    if each.grad is not None and each in self._start:
                        each.grad.add_(each - self._start[each], alpha=mu)
