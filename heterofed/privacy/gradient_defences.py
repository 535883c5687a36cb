"""Noise on the gradients that a Host sends, so that they tell less of the labels.

A defence is called with the gradients of one batch for one Collaborator, one row per sample, and
the labels; what it returns is sent instead. All are unbiased: on average the gradient is the true
one. Noise comes from `noise.normal`, which a run makes unforeseeable; a defence of your own should
take it from there too, and name all that it hides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.privacy.noise import added, normal, wide


class GradientDefence(Protocol):
    """A transform of outgoing gradients."""

    def __call__(self, gradients: Tensor, labels: Tensor) -> Tensor:
        """What is sent instead.

        Args:
            gradients: [rows, d] floats: dL/dfeatures of one party, flattened.
            labels: [rows] int64 class numbers of the same rows.
        """


@dataclass(frozen=True, slots=True)
class MaxNorm:
    """Stretch each gradient by a random factor, so that the mean squared lengths are all alike.

    Li et al. (ICLR 2022), the `max_norm` heuristic: the factor is 1 + e with
    e ~ N(0, max|g|^2 / |g|^2 - 1). Hides lengths, not directions.
    """

    def __call__(self, gradients: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        if gradients.numel() == 0:
            return gradients
        squares = wide(gradients)[0].square().sum(1, keepdim=True)
        missing = torch.where(squares > 0, squares.amax() / squares - 1, 0.0)
        factor = 1 + missing.clamp_min(0).sqrt() * normal(squares, gradients)
        return (gradients * factor).to(gradients.dtype)


@dataclass(frozen=True, slots=True)
class IsotropicGaussian:
    """Add the same Gaussian noise to every gradient, in all directions alike.

    Attributes:
        power: mean squared length of the noise, in units of the longest squared gradient of the
            batch (Li et al., ICLR 2022, `iso`).
    """

    power: float

    def __post_init__(self) -> None:
        check_positive("IsotropicGaussian power", self.power)

    def __call__(self, gradients: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        if gradients.numel() == 0:
            return gradients
        rows, scale = wide(gradients)
        longest = rows.square().sum(1).amax()
        std = (self.power * longest / gradients.shape[1]).sqrt() * scale
        return added(gradients, std * normal(gradients, gradients, std), std)


def check_positive(what: str, value: float, *, most: float = 1e9) -> None:
    """Refuse a strength that is not a number above 0.

    Raises:
        ConfigError: naming it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ConfigError(f"{what} is {value!r}: give a number above 0, at most {most:g}")
