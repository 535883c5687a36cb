"""Computes Marvell, the noise on gradients that hides two classes best for a given power.

The method is from Li et al., "Label Leakage and Protection in Two-party Split Learning" (ICLR
2022). It models the gradients of the positive class as N(g1, v I) and those of the negative class
as N(g0, u I), and adds noise N(0, S1) and N(0, S0). Among all S1 and S0 of mean power P (p tr S1 +
(1-p) tr S0 <= P), it takes those that minimise the sum of both Kullback-Leibler divergences. The
paper shows that for each class they have one variance along g1 - g0 and another one across, so that
four numbers are to be found.

Let a and b be the total variances (of noise and gradients) of positives and negatives along g1 -
g0, and c and e those across. With D = |g1 - g0|^2 and d dimensions,

    2 sumKL + 2 d = a/b + b/a + D/a + D/b + (d-1) (c/e + e/c).

Across, noise helps only by making c and e more alike, so only the class with the smaller variance
gets it. For a given power along, Q = p a + (1-p) b, the best r = a/b has a closed form. What
remains is to divide the power between the two directions, by minimising a convex function of one
number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.privacy.gradient_defences import IsotropicGaussian, check_positive
from heterofed.privacy.noise import added, normal, wide

_GOLDEN = (math.sqrt(5) - 1) / 2
"""The golden ratio's inverse, at which the search divides an interval."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The statistics of the gradients of a batch.

    Attributes:
        share: the share of positives, p, between 0 and 1 exclusively.
        gap: the squared distance of the class means, D.
        positive, negative: the variance per dimension within each class, v and u.
        dimensions: the number of dimensions, d.
    """

    share: float
    gap: float
    positive: float
    negative: float
    dimensions: int


@dataclass(frozen=True, slots=True)
class Noise:
    """The variances of the noise, along the difference of the class means and across it."""

    positive_along: float
    positive_across: float
    negative_along: float
    negative_across: float

    @property
    def typical(self) -> float:
        """The order of magnitude of the noise's standard deviation."""
        return math.sqrt(max(astuple(self)))

    def scaled(self, scale: float) -> Noise:
        """Return the same noise for gradients that are `scale` times as long."""
        return Noise(*(each * scale**2 for each in astuple(self)))

    def power(self, spread: Spread) -> float:
        """Return the mean squared length of the noise over both classes."""
        across = spread.dimensions - 1
        return spread.share * (self.positive_along + across * self.positive_across) + (
            1 - spread.share
        ) * (self.negative_along + across * self.negative_across)


def sum_kl(spread: Spread, noise: Noise) -> float:
    """Return sumKL of the gradients with noise, in nats.

    It is KL(positive || negative) + KL(negative || positive).
    """
    a, c = spread.positive + noise.positive_along, spread.positive + noise.positive_across
    b, e = spread.negative + noise.negative_along, spread.negative + noise.negative_across
    if min(a, b) <= 0:
        return math.inf
    across = (_skew(c, e) if spread.dimensions > 1 else 0.0) * (spread.dimensions - 1)
    return (_skew(a, b) + across + spread.gap * (1 / a + 1 / b)) / 2


def auc_bound(kl: float) -> float:
    """Return the highest leak AUC of any attack on gradients with this sumKL (Li et al., theorem
    2).
    """
    return 1.0 if kl >= 4 else 0.5 + math.sqrt(kl) / 2 - kl / 8


def kl_for_auc(bound: float) -> float:
    """Return the sumKL whose `auc_bound` is `bound`, for 0.5 < bound < 1."""
    return (2 - math.sqrt(8 - 8 * bound)) ** 2


def best_noise(spread: Spread, power: float) -> Noise:
    """Return the noise of mean power `power` that minimises `sum_kl`."""
    p, u, v = spread.share, spread.negative, spread.positive
    across = spread.dimensions - 1
    cost = across * ((1 - p) if u < v else p)  # power of one unit of variance across
    most = min(power, cost * abs(v - u))

    def across_for(spent: float) -> float:
        return spent / cost if cost > 0 else 0.0

    def divergence(spent: float) -> float:
        a, b = _along(spread, power - spent)
        low = min(u, v) + across_for(spent)
        return _skew(a, b) + spread.gap * (1 / a + 1 / b) + across * _skew(low, max(u, v))

    spent = _least(divergence, 0.0, most) if most > 0 else 0.0
    a, b = _along(spread, power - spent)
    extra = across_for(spent)
    return Noise(
        positive_along=max(0.0, a - v),
        positive_across=extra if v <= u else 0.0,
        negative_along=max(0.0, b - u),
        negative_across=extra if u < v else 0.0,
    )


def power_for_kl(spread: Spread, kl: float) -> float:
    """Return the least power with which `best_noise` reduces `sum_kl` to `kl` (within 1 %)."""
    low, high = 0.0, max(spread.gap, spread.positive, spread.negative, 1e-30)
    if sum_kl(spread, best_noise(spread, 0.0)) <= kl:
        return 0.0
    for _ in range(60):
        if sum_kl(spread, best_noise(spread, high)) <= kl:
            break
        low, high = high, 2 * high
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        if sum_kl(spread, best_noise(spread, middle)) <= kl:
            high = middle
        else:
            low = middle
    return high


def spread_of(gradients: Tensor, positive: Tensor) -> tuple[Spread, Tensor]:
    """Return the statistics of a batch and the unit vector along the difference of its class means.

    Args:
        gradients: the gradients, of shape [rows, d].
        positive: whether each row is positive, bools of shape [rows] with at least one row of each
            class.
    """
    rows = gradients.to(torch.float64)
    ones, zeros = rows[positive], rows[~positive]
    means = ones.mean(0), zeros.mean(0)
    difference = means[0] - means[1]
    gap = float(difference.square().sum())
    variances = [
        float((part - mean).square().mean())
        for part, mean in zip((ones, zeros), means, strict=True)
    ]
    # Keeps divergences finite if a class has equal gradients.
    floor = 1e-9 * max(gap, *variances, 1e-30)
    spread = Spread(
        share=len(ones) / len(rows),
        gap=gap,
        positive=max(variances[0], floor),
        negative=max(variances[1], floor),
        dimensions=rows.shape[1],
    )
    direction = difference / math.sqrt(gap) if gap > 0 else torch.zeros_like(difference)
    return spread, direction


class Marvell:
    """Marvell as a defence of outgoing gradients, for labels 0 and 1.

    Give either `power` or `bound`. A batch with only one class gets the noise of the last batch
    with both classes; before the first of these, it gets isotropic noise of the gradients' own
    power.

    Args:
        power: the power of the noise in units of the squared distance of the class means, which is
            the paper's hyperparameter s.
        bound: the highest leak AUC to allow; the noise is chosen by `auc_bound`. The bound holds if
            the gradients are Gaussian as the theorem assumes; the leak report measures the real
            leak.

    Raises:
        ConfigError: neither or both are given, or the value is out of range.
    """

    def __init__(self, power: float | None = None, *, bound: float | None = None) -> None:
        if (power is None) == (bound is None):
            raise ConfigError("Marvell: give either power or bound")
        if power is not None:
            check_positive("Marvell power", power)
        elif bound is not None and not 0.5 < bound < 1:
            raise ConfigError(f"Marvell bound {bound!r}: give an AUC above 0.5 and below 1")
        self._power = power
        self._bound = bound
        self._last: tuple[Noise, Tensor] | None = None

    def __repr__(self) -> str:
        """Return the call that makes the same defence."""
        if self._power is not None:
            return f"Marvell(power={self._power})"
        return f"Marvell(bound={self._bound})"

    def __call__(self, gradients: Tensor, labels: Tensor) -> Tensor:
        """Return the gradients to send.

        Args:
            gradients: the gradients, of shape [rows, d].
            labels: the labels 0 or 1, of shape [rows].

        Raises:
            ConfigError: a label is neither 0 nor 1.
        """
        if len(labels) and int(labels.max()) > 1:
            raise ConfigError(
                "Marvell hides two classes, and there is a label other than 0 and 1; use MaxNorm or"
                " IsotropicGaussian"
            )
        positive = labels.to(gradients.device) == 1
        if bool(positive.any()) and not bool(positive.all()):
            rows, scale = wide(gradients)
            spread, direction = spread_of(rows, positive)
            if self._power is not None:
                power = self._power * spread.gap
            else:
                power = power_for_kl(spread, kl_for_auc(self._bound or 1.0))
            self._last = best_noise(spread, power).scaled(scale), direction
        elif self._last is None:
            return IsotropicGaussian(1.0)(gradients, labels)
        noise, direction = self._last
        # All rows are rounded to one grid, because one grid for each class would tell them apart.
        return added(gradients, _drawn(noise, direction, positive, gradients), noise.typical)

    def state_dict(self) -> dict[str, Any]:
        """Return the noise of the last batch with both classes; it is empty before there is one."""
        if self._last is None:
            return {}
        noise, direction = self._last
        return {"noise": astuple(noise), "direction": direction}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch at which `state_dict` returned this."""
        self._last = (Noise(*state["noise"]), state["direction"]) if state else None


def _drawn(noise: Noise, direction: Tensor, positive: Tensor, gradients: Tensor) -> Tensor:
    """Return noise for each row, with its own scale along the direction and across it."""
    along = _by_class(positive, noise.positive_along, noise.negative_along, direction)
    across = _by_class(positive, noise.positive_across, noise.negative_across, direction)
    drawn = normal(gradients, gradients, direction, along, across)
    parallel = drawn @ direction
    weights = (along - across) * parallel
    return weights[:, None] * direction + across[:, None] * drawn


def _by_class(positive: Tensor, ones: float, zeros: float, like: Tensor) -> Tensor:
    """Return the standard deviation of each row by its class, in the dtype of `like`."""
    return torch.where(positive, like.new_tensor(ones), like.new_tensor(zeros)).sqrt()


def _along(spread: Spread, extra: float) -> tuple[float, float]:
    """Return the total variances along, (a, b), for noise of mean power `extra` there."""
    p, u, v = spread.share, spread.negative, spread.positive
    total = p * v + (1 - p) * u + extra
    ratio = math.sqrt((total + (1 - p) * spread.gap) / (total + p * spread.gap))
    least = v * (1 - p) / (total - p * v)  # a >= v
    most = (total - (1 - p) * u) / (p * u)  # b >= u
    ratio = min(max(ratio, least), most)
    b = total / (p * ratio + 1 - p)
    return max(v, ratio * b), max(u, b)


def _skew(x: float, y: float) -> float:
    """Return x/y + y/x - 2 without cancellation; it is 0 if both are 0."""
    return 0.0 if x == y else (x - y) ** 2 / (x * y)


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the argument that minimises a convex function, by golden-section search."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(60):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2
