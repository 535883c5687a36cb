"""What a Collaborator can do to the embeddings it sends, so that they tell less of its inputs.

`ClippedGaussian` changes what is sent and gives an epsilon; gradients go through it.
`Decorrelation` changes what is learnt: it adds to the gradient, and guarantees nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heterofed.privacy.accountant import gaussian_epsilon
from heterofed.privacy.gradient_defences import check_positive
from heterofed.privacy.input_attacks import distance_correlation
from heterofed.privacy.noise import added, normal, wide


@dataclass(frozen=True, slots=True)
class ClippedGaussian:
    """Clip each row to an L2 norm and add Gaussian noise to it.

    Attributes:
        clip: longest row that is sent.
        noise_multiplier: standard deviation of the noise, in units of `clip`.
        delta: of the (epsilon, delta) that is told.
    """

    clip: float
    noise_multiplier: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        check_positive("ClippedGaussian clip", self.clip)
        check_positive("ClippedGaussian noise_multiplier", self.noise_multiplier)
        check_positive("ClippedGaussian delta", self.delta, most=0.5)

    def __call__(self, rows: Tensor) -> Tensor:
        """What is sent instead of `rows`, [rows, d]."""
        scaled, scale = wide(rows)
        lengths = scaled.norm(dim=1, keepdim=True) * scale
        clipped = scaled * scale * (self.clip / lengths.clamp_min(self.clip))
        std = self.clip * self.noise_multiplier
        return added(clipped, std * normal(clipped, clipped, std), std).to(rows.dtype)

    @property
    def squared_mu(self) -> float:
        """What one release of a row adds to the sum of `accountant.composed_epsilon`."""
        return (2 / self.noise_multiplier) ** 2

    def epsilon(self, releases: int) -> float:
        """Of one person's row against any other row in its place, after so many releases of it.

        The Host knows who is in a batch, so nothing is gained by sampling: q = 1. A row in place of
        another moves what is sent by up to twice the clip.
        """
        std = self.clip * self.noise_multiplier
        return gaussian_epsilon(releases, 2 * self.clip, std, self.delta)


@dataclass(frozen=True, slots=True)
class Decorrelation:
    """Learn embeddings of low distance correlation with the inputs (NoPeek, Vepakomma et al. 2020).

    Attributes:
        weight: of the distance correlation beside the task's loss.
    """

    weight: float

    def __post_init__(self) -> None:
        check_positive("Decorrelation weight", self.weight)

    def gradient(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """What is added to dL/drows: weight times the slope of the distance correlation.

        Args:
            inputs: [rows, ...], floats: what the embeddings were made of.
            rows: [rows, d], the embeddings.
        """
        with torch.enable_grad():
            leaf = rows.detach().requires_grad_()
            penalty = self.weight * distance_correlation(inputs.detach().to(leaf.dtype), leaf)
            (slope,) = torch.autograd.grad(penalty, leaf)
        return slope
