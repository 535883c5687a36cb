"""Defences of the gradients that a Host sends, so that they reveal less about the labels.

A defence is called with the labels and the gradients of one batch for one Collaborator, with one
row per sample. The gradients that it returns are sent. All defences here are unbiased: the expected
gradient is the true one. `synthetic_gradients` has one that also sees the embeddings. Noise comes
from `noise.normal`, which is unpredictable for peers in a run. A defence of your own should use it
too, and pass all values that the noise hides. What a defence remembers from batch to batch is kept
in checkpoints: by its `state_dict` and `load_state_dict`, if it has these, else its attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.privacy.noise import added, normal, wide


class GradientDefence(Protocol):
    """A transform of outgoing gradients."""

    def __call__(self, gradients: Tensor, labels: Tensor) -> Tensor:
        """Return the gradients to send.

        Args:
            gradients: dL/dfeatures of one party, flattened to floats of shape [rows, d].
            labels: the class numbers of the same rows, int64 of shape [rows].
        """


@runtime_checkable
class EmbeddingAwareDefence(Protocol):
    """A transform of outgoing gradients that also sees the embeddings that they belong to."""

    def defend(self, gradients: Tensor, labels: Tensor, embeddings: Tensor) -> Tensor:
        """Return the gradients to send.

        Args:
            gradients: dL/dfeatures of one party, flattened to floats of shape [rows, d].
            labels: the class numbers of the same rows, int64 of shape [rows].
            embeddings: the features of the same rows as they came, in the order of the gradients,
                of shape [rows, d].
        """


def defended(
    defence: GradientDefence | EmbeddingAwareDefence,
    gradients: Tensor,
    labels: Tensor,
    embeddings: Tensor,
) -> Tensor:
    """Return what a defence sends, whether it needs to see the embeddings or not."""
    if isinstance(defence, EmbeddingAwareDefence):
        return defence.defend(gradients, labels, embeddings)
    return defence(gradients, labels)


@dataclass(frozen=True, slots=True)
class MaxNorm:
    """Multiply each gradient by a random factor, so that all expected squared norms are equal.

    This is the `max_norm` heuristic of Li et al. (ICLR 2022): the factor is 1 + e with
    e ~ N(0, max|g|^2 / |g|^2 - 1). It hides norms, but not directions.
    """

    def __call__(self, gradients: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """Return the gradients with noise along each row; see `GradientDefence`."""
        if gradients.numel() == 0:
            return gradients
        squares = wide(gradients)[0].square().sum(1, keepdim=True)
        missing = torch.where(squares > 0, squares.amax() / squares - 1, 0.0)
        factor = 1 + missing.clamp_min(0).sqrt() * normal(squares, gradients)
        return (gradients * factor).to(gradients.dtype)


@dataclass(frozen=True, slots=True)
class IsotropicGaussian:
    """Add isotropic Gaussian noise of the same strength to every gradient.

    Attributes:
        power: the expected squared norm of the noise, in units of the largest squared norm of a
            gradient in the batch (Li et al., ICLR 2022, `iso`).
    """

    power: float

    def __post_init__(self) -> None:
        check_positive("IsotropicGaussian power", self.power)

    def __call__(self, gradients: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """Return the gradients with the same noise in all directions; see `GradientDefence`."""
        if gradients.numel() == 0:
            return gradients
        rows, scale = wide(gradients)
        longest = rows.square().sum(1).amax()
        std = (self.power * longest / gradients.shape[1]).sqrt() * scale
        return added(gradients, std * normal(gradients, gradients, std), std)


def check_positive(what: str, value: float, *, most: float = 1e9) -> None:
    """Refuse a setting that is not a number above 0.

    Raises:
        ConfigError: the value is not a number above 0 or is too large; the message names the
            setting.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ConfigError(f"{what} is {value!r}: give a number above 0, at most {most:g}")
