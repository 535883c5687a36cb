"""Defences of the embeddings that a Collaborator sends, so that they reveal less about its inputs.

`ClippedGaussian` changes the embeddings that are sent and gives an epsilon; gradients pass through
it. `Decorrelation` changes what the model learns by adding to the gradient; it guarantees nothing.
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
        clip: the L2 norm to which each row is clipped.
        noise_multiplier: the standard deviation of the noise, in units of `clip`.
        delta: the delta of the (epsilon, delta) guarantee.
    """

    clip: float
    noise_multiplier: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        check_positive("ClippedGaussian clip", self.clip)
        check_positive("ClippedGaussian noise_multiplier", self.noise_multiplier)
        check_positive("ClippedGaussian delta", self.delta, most=0.5)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the embeddings to send in place of `rows`, which has the shape [rows, d]."""
        scaled, scale = wide(rows)
        lengths = scaled.norm(dim=1, keepdim=True) * scale
        clipped = scaled * scale * (self.clip / lengths.clamp_min(self.clip))
        std = self.clip * self.noise_multiplier
        return added(clipped, std * normal(clipped, clipped, std), std).to(rows.dtype)

    @property
    def squared_mu(self) -> float:
        """The contribution of one release of a row to the sum of `accountant.composed_epsilon`."""
        return (2 / self.noise_multiplier) ** 2

    def epsilon(self, releases: int) -> float:
        """Return the epsilon of one person's row after a number of releases of it.

        Neighbouring data sets differ by replacing one row, which changes the embeddings by at most
        twice `clip`. The Host knows who is in a batch, so sampling reduces nothing (q = 1).
        """
        std = self.clip * self.noise_multiplier
        return gaussian_epsilon(releases, 2 * self.clip, std, self.delta)


@dataclass(frozen=True, slots=True)
class Decorrelation:
    """Learn embeddings of low distance correlation with the inputs (NoPeek, Vepakomma et al. 2020).

    Attributes:
        weight: the weight of the distance correlation, relative to the task's loss.
    """

    weight: float

    def __post_init__(self) -> None:
        check_positive("Decorrelation weight", self.weight)

    def gradient(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Return the gradient to add to dL/drows: weight times that of the distance correlation.

        Args:
            inputs: the inputs of the embeddings, floats of shape [rows, ...].
            rows: the embeddings, of shape [rows, d].
        """
        with torch.enable_grad():
            leaf = rows.detach().requires_grad_()
            penalty = self.weight * distance_correlation(inputs.detach().to(leaf.dtype), leaf)
            (slope,) = torch.autograd.grad(penalty, leaf)
        return slope
