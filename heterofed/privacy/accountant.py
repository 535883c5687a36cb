"""Computes the epsilon of repeated Gaussian releases without sampling (q = 1).

The Host knows whose row is in which batch, so sampling amplifies nothing. Such releases compose
exactly (Dong, Roth and Su 2022): k releases that are mu-GDP each are sqrt(k) mu-GDP together, and
their delta(epsilon) is that of one Gaussian mechanism (Balle and Wang, ICML 2018).
"""

from __future__ import annotations

import math

import torch

from heterofed.errors import ConfigError


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the least delta for which a mu-GDP mechanism is (epsilon, delta)-DP."""
    if mu == 0:
        return 0.0
    near, far = _log_cdf(mu / 2 - epsilon / mu), _log_cdf(-mu / 2 - epsilon / mu)
    return math.exp(near) - math.exp(min(epsilon + far, 0.0))


def gaussian_epsilon(releases: int, sensitivity: float, std: float, delta: float) -> float:
    """Return the epsilon of repeated Gaussian releases of one person's data.

    Args:
        releases: the number of releases of that person's data.
        sensitivity: the largest change of one release, in L2 norm, when that person's data change.
        std: the standard deviation of the noise on each coordinate.
        delta: the delta of the (epsilon, delta) guarantee, above 0 and below 1.

    Returns:
        Epsilon, rounded up to three digits; infinity without noise.

    Raises:
        ConfigError: delta is out of range.
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta {delta!r}: give a number above 0 and below 1, far below 1/rows")
    if releases == 0 or sensitivity == 0:
        return 0.0
    if std <= 0:
        return math.inf
    return composed_epsilon(releases * (sensitivity / std) ** 2, delta)


def composed_epsilon(squared: float, delta: float) -> float:
    """Return the epsilon of Gaussian releases from the sum of their squared mus.

    Args:
        squared: the sum of (sensitivity / std)^2 over all releases, or infinity if a release had no
            noise.
        delta: the delta of the (epsilon, delta) guarantee, above 0 and below 1.

    Returns:
        Epsilon, rounded up to three digits.
    """
    if squared == 0 or math.isinf(squared):
        return squared
    mu = math.sqrt(squared)
    high = 1.0
    while gaussian_delta(high, mu) > delta:
        high *= 2
        if high > 1e12:
            return math.inf
    low = 0.0
    while high - low > 5e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, mu) > delta else (low, middle)
    return high


def noise_for(epsilon: float, delta: float, releases: int, sensitivity: float = 1.0) -> float:
    """Return the least standard deviation for which `gaussian_epsilon` is at most `epsilon`.

    Raises:
        ConfigError: epsilon or delta is out of range.
    """
    if not 0 < epsilon < 1e6:
        raise ConfigError(f"epsilon {epsilon!r}: give a number above 0")
    low, high = 0.0, sensitivity
    while gaussian_epsilon(releases, sensitivity, high, delta) > epsilon:
        low, high = high, 2 * high
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        enough = gaussian_epsilon(releases, sensitivity, middle, delta) <= epsilon
        low, high = (low, middle) if enough else (middle, high)
    return high


def _log_cdf(x: float) -> float:
    """Return the logarithm of the standard normal distribution function at `x`."""
    return float(torch.special.log_ndtr(torch.tensor(x, dtype=torch.float64)))
