"""Defines the costs of releases of rows and how they add up, without any disk or tensor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one release for each of its rows; costs add up.

    Attributes:
        sent: the number of releases, of embeddings at a Collaborator and of gradients at the Host.
        embeddings: the squared mu of the noise on embeddings; infinity without noise.
        weights: the squared mu of a DP-SGD step with the row, if the rows of a batch are known.
    """

    sent: int = 0
    embeddings: float = 0.0
    weights: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both releases."""
        return Cost(
            self.sent + other.sent,
            self.embeddings + other.embeddings,
            self.weights + other.weights,
        )

    def __mul__(self, times: int) -> Cost:
        """Return the cost of several releases."""
        return Cost(self.sent * times, self.embeddings * times, self.weights * times)


@dataclass(frozen=True, slots=True)
class Shared:
    """The cost of a release that all rows share.

    Attributes:
        draw: the noise multiplier, the probability of a row to be in a batch, and the number of
            steps, for DP-SGD with sampling.
        labels: the name of the labels, the identifier of their random choices, and their epsilon,
            which counts once.
    """

    draw: tuple[float, float, int] | None = None
    labels: tuple[str, bytes, float] | None = None


NOTHING_SHARED = Shared()
"""The shared cost of a release that has none."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The total costs so far.

    Attributes:
        most: the largest cost of any row, separately for each measure.
        draws: the noise multipliers, rates and steps of DP-SGD with sampling.
        labels: the names of the labels, with the epsilon of all their random choices.
    """

    most: Cost
    draws: tuple[tuple[float, float, int], ...]
    labels: tuple[tuple[str, float], ...]
