"""Hides each party's update in the average: updates are clipped, and noise is added to their sum.

The noise is added once, at the Host, which is trusted to add it (McMahan et al., ICLR 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.homo_nn.weights import Layout, flat
from heterofed.privacy.noise import Noise, added


@dataclass(frozen=True, slots=True)
class CentralDP:
    """Clip each party's update to an L2 norm, and add Gaussian noise to the sum of all.

    Whoever sees the averages of all rounds, and knows the updates of all other parties, learns
    little about whether one party took part. Epsilon counts every round in which a party was drawn.
    It is that of the worst party over all runs of the task, and it is written to `privacy.csv` of
    the Host.

    Args:
        noise_multiplier: the standard deviation of the noise, in units of `clip`.
        clip: the largest L2 norm of the change that one party's update makes.
        delta: the delta of the (epsilon, delta) guarantee.
    """

    noise_multiplier: float
    clip: float
    delta: float

    def __post_init__(self) -> None:
        numbers = {"noise_multiplier": self.noise_multiplier, "clip": self.clip}
        for name, value in numbers.items():
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            if not plain or not 1e-9 <= value <= 1e9:
                raise ConfigError(f"CentralDP {name}={value!r}: give a number above 0, up to 1e9")
        if not isinstance(self.delta, float) or not 0 < self.delta < 1:
            raise ConfigError(f"CentralDP delta={self.delta!r}: give a number above 0 and below 1")

    @property
    def squared_mu(self) -> float:
        """The contribution of one round to the sum of `accountant.composed_epsilon`."""
        return float(self.noise_multiplier) ** -2

    def noisy(self, total: Tensor, noise: Noise) -> Tensor:
        """Return a sum of clipped changes with noise, float64 of shape [numbers]."""
        std = float(self.noise_multiplier * self.clip)
        return added(total, noise.normal(total.shape, total, std) * std, std)


def check_layout(layout: Layout) -> None:
    """Check that noise can be added to every tensor of a model.

    Raises:
        ConfigError: a tensor does not learn, such as a running mean.
    """
    for each in layout:
        if not each.learns:
            raise ConfigError(
                f"central_dp adds noise to what learns, and {each.name!r} of the model does not;"
                " use GroupNorm or LayerNorm in place of BatchNorm, and register no buffers"
            )


def clipped(start: Tensor, update: Mapping[str, Tensor], clip: float) -> Tensor:
    """Return the change that an update makes, with an L2 norm of at most `clip`.

    Args:
        start: the weights of the round's start, as `weights.flat` gives them; zeros if the update
            is a gradient.
        update: the tensors of the update.
        clip: the largest norm.

    Returns:
        A float64 tensor of shape [numbers].
    """
    change = flat(update) - start
    norm = float(change.norm())
    return change * (clip / norm) if norm > clip else change
