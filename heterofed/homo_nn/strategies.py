"""Defines how the Host makes new weights of the parties' updates.

All of them compute in float64, over the parties in task order, so that a run can be repeated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from heterofed.errors import ConfigError

Named = dict[str, Tensor]


class Strategy(ABC):
    """The base of all strategies.

    Attributes:
        sends: whether the parties send their weights after training, or gradients.
        proximal: the strength of the pull towards the weights of the round's start.
    """

    sends: ClassVar[Literal["weights", "gradients"]] = "weights"
    proximal: float = 0.0

    def __repr__(self) -> str:
        """Return the name of the strategy and its settings."""
        settings = (f"{name.strip('_')}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({', '.join(settings)})"

    @abstractmethod
    def step(
        self,
        weights: Mapping[str, Tensor],
        mean: Mapping[str, Tensor],
        learns: Collection[str],
        state: dict[str, Any],
    ) -> Named:
        """Return the new weights, as float64 tensors.

        Args:
            weights: the weights of the round's start, float64 tensors by name.
            mean: the weighted mean of the updates, float64 tensors by the same names. Of tensors
                that do not learn, such as running means, it is always a mean of values.
            learns: the names of the tensors that learn by gradients.
            state: what this method keeps from round to round: tensors and plain values.
        """


class FedAvg(Strategy):
    """Averages the weights (McMahan et al., AISTATS 2017)."""

    def step(
        self,
        weights: Mapping[str, Tensor],  # noqa: ARG002
        mean: Mapping[str, Tensor],
        learns: Collection[str],  # noqa: ARG002
        state: dict[str, Any],  # noqa: ARG002
    ) -> Named:
        """See `Strategy.step`."""
        return dict(mean)


class FedProx(FedAvg):
    """Averages weights whose training was pulled towards the round's start (Li et al., MLSys 2020).

    Each step of a party's optimizer adds mu * (w - w_start) to the gradient, which is the gradient
    of mu/2 * ||w - w_start||^2.

    Args:
        mu: the strength of the pull.
    """

    def __init__(self, mu: float) -> None:
        _check_number("FedProx mu", mu, lambda value: 0 < value <= 1e9, "above 0")
        self.proximal = float(mu)


class FedSGD(Strategy):
    """Takes one step of gradient descent per round on the mean gradient of all parties.

    `train_a_round` runs backward and takes no step, and `make_optimizer` is not called. If each
    party leaves the mean gradient over its rows, the step is that of the joined data.

    Args:
        lr: the learning rate.
    """

    sends = "gradients"

    def __init__(self, lr: float) -> None:
        _check_number("FedSGD lr", lr, lambda value: value > 0, "above 0")
        self._lr = lr

    def step(
        self,
        weights: Mapping[str, Tensor],
        mean: Mapping[str, Tensor],
        learns: Collection[str],
        state: dict[str, Any],  # noqa: ARG002
    ) -> Named:
        """See `Strategy.step`."""
        moved = {name: weights[name] - self._lr * mean[name] for name in learns}
        return {**mean, **moved}


class FedAvgM(Strategy):
    """Averages with momentum at the Host (Hsu, Qi and Brown 2019).

    With d the mean of the weights minus the weights of the start, v <- momentum * v + d, and the
    new weights are w + lr * v.

    Args:
        lr: the learning rate of the Host.
        momentum: the part of the last step that is taken again.
    """

    def __init__(self, lr: float = 1.0, momentum: float = 0.9) -> None:
        _check_number("FedAvgM lr", lr, lambda value: value > 0, "above 0")
        _check_number("FedAvgM momentum", momentum, lambda value: 0 <= value < 1, "in [0, 1)")
        self._lr, self._momentum = lr, momentum

    def step(
        self,
        weights: Mapping[str, Tensor],
        mean: Mapping[str, Tensor],
        learns: Collection[str],
        state: dict[str, Any],
    ) -> Named:
        """See `Strategy.step`."""
        new = dict(mean)
        for name in learns:
            before = state.get(name, torch.zeros_like(mean[name]))
            state[name] = self._momentum * before + (mean[name] - weights[name])
            new[name] = weights[name] + self._lr * state[name]
        return new


class FedAdam(Strategy):
    """Steps by Adam at the Host, on the mean change of the weights (Reddi et al., ICLR 2021).

    Args:
        lr: the learning rate of the Host.
        betas: the decay of the means of the changes and of their squares.
        tau: the degree of adaptivity, which is added to the denominator.
    """

    def __init__(
        self, lr: float = 0.01, betas: tuple[float, float] = (0.9, 0.99), tau: float = 1e-3
    ) -> None:
        _check_number("FedAdam lr", lr, lambda value: value > 0, "above 0")
        _check_number("FedAdam tau", tau, lambda value: value > 0, "above 0")
        for beta in betas:
            _check_number("FedAdam beta", beta, lambda value: 0 <= value < 1, "in [0, 1)")
        self._lr, self._betas, self._tau = lr, betas, tau

    def step(
        self,
        weights: Mapping[str, Tensor],
        mean: Mapping[str, Tensor],
        learns: Collection[str],
        state: dict[str, Any],
    ) -> Named:
        """See `Strategy.step`."""
        new, (first, second) = dict(mean), self._betas
        for name in learns:
            change = mean[name] - weights[name]
            start = [torch.zeros_like(change), torch.full_like(change, self._tau**2)]
            m, v = state.get(name, start)
            m, v = first * m + (1 - first) * change, second * v + (1 - second) * change**2
            state[name] = [m, v]
            new[name] = weights[name] + self._lr * m / (v.sqrt() + self._tau)
        return new


def _check_number(what: str, value: object, fits: Callable[[float], bool], words: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not fits(value):  # type: ignore[arg-type]
        raise ConfigError(f"{what}={value!r}: give a number {words}")
