"""Sends gradients that are predicted from embeddings, so that no label decides its own gradient.

A feature model can only learn the part of a gradient that depends on its own features: whatever
else the gradients of similar rows differ by averages out over the rows. So the Host fits a
regression of the gradients on the embeddings of earlier rows, and sends what it predicts for each
row. Such models of gradients are the synthetic gradients of Jaderberg et al. (ICML 2017). Ghazi et
al. (LabelDP-Pro, ICLR 2024) also remove from the gradients of a labelled batch what no label of
such rows could be the reason for, by a projection.

A row's gradient enters the regression only after the row was answered. So an answer depends on the
row's own label only by what earlier rounds left of it, in the regression and in the Host's weights.
What remains is what the embedding itself tells of the label. Noise hides this from whoever looks at
a row alone. Its covariance is that of the predictions, so that no direction is hidden worse than
another, and its strength is the least for which the best linear attack on each class reaches the
bound, if predictions are Gaussian with one covariance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.privacy.noise import added, normal
from heterofed.privacy.rows import vectors

LINEAR_WIDTH = 64
"""Embeddings that are wider are projected to this width, for the linear part of the regression."""

RIDGE = 1e-2
"""The penalty of the regression, in units of the second moments of standardised features."""


class SyntheticGradients:
    """The defence, for any number of classes; see the description of this module.

    It needs to see the embeddings, so it has `defend` where others are called. The first batch for
    a Collaborator is answered by zeros, because nothing was fitted yet. The regression is part of
    checkpoints.

    Args:
        bound: the highest AUC of an attack on one round that knows the best direction, above 0.5
            and below 1.
        features: the number of random features of the regression, beside the linear ones. More of
            them follow the gradients more closely, and need more rows.
        memory: the number of earlier rows that the regression remembers, by an exponential decay.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, bound: float = 0.57, *, features: int = 64, memory: int = 10_000) -> None:
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0.5 < bound < 1:
            raise ConfigError(
                f"SyntheticGradients bound {bound!r}: give an AUC above 0.5 and below 1"
            )
        for name, value, most in (("features", features, 4096), ("memory", memory, 10**9)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(
                    f"SyntheticGradients {name} {value!r}: give a whole number from 1 to {most}"
                )
        self._settings = bound, features, memory
        self._most = 2 * NormalDist().inv_cdf(bound) ** 2
        self._basis: _Basis | None = None
        self._sums: _Sums | None = None

    def __repr__(self) -> str:
        """Return the call that makes the same defence."""
        bound, features, memory = self._settings
        return f"SyntheticGradients({bound}, features={features}, memory={memory})"

    def defend(self, gradients: Tensor, labels: Tensor, embeddings: Tensor) -> Tensor:
        """Return the gradients to send; see `EmbeddingAwareDefence`."""
        if gradients.numel() == 0:
            return gradients
        _, features, memory = self._settings
        rows = vectors(embeddings.detach()).to("cpu", torch.float64)
        keep = math.exp(-len(rows) / memory)
        if self._basis is None:
            self._basis = _Basis(rows.shape[1], features)
        self._check_widths(rows, gradients)
        inputs = self._basis.features_of(rows, keep)
        answers = torch.zeros(gradients.shape, dtype=torch.float64, device="cpu")
        if self._sums is None:
            self._sums = _Sums.empty(inputs.shape[1], gradients.shape[1])
        else:
            answers = self._sums.fit().predict(inputs, self._most)
        clean = gradients.detach().to("cpu", torch.float64)
        self._sums.take(inputs, clean, labels.to("cpu"), keep)
        return answers.to(gradients)

    def _check_widths(self, rows: Tensor, gradients: Tensor) -> None:
        """Refuse rows that the regression cannot take, because earlier ones had another length.

        Raises:
            ConfigError: the lengths differ.
        """
        if self._basis is None or self._sums is None:
            return
        now, before = (rows.shape[1], gradients.shape[1]), (self._basis.width, self._sums.width)
        if now != before:
            raise ConfigError(
                f"SyntheticGradients fits embeddings and gradients of one length: those of a"
                f" row have {now[0]} and {now[1]} numbers, and had {before[0]} and {before[1]};"
                " pad all sequences to one length and use all features in each batch, or give"
                " another defence, such as IsotropicGaussian or Marvell"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what the regression has learnt; it is empty before the first batch."""
        if self._basis is None or self._sums is None:
            return {}
        return {"moments": self._basis.moments, "sums": self._sums.tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a regression of which `state_dict` returned this."""
        if not state:
            self._basis = self._sums = None
            return
        _, mean, _ = state["moments"]
        self._basis = _Basis(len(mean), self._settings[1])
        self._basis.moments = state["moments"]
        self._sums = _Sums(**state["sums"])


class _Basis:
    """Functions of embeddings: 1, the embeddings, and rectified random directions of them.

    Embeddings are standardised by the mean and variance of the rows so far. Gradients of a model
    that begins with a rectifier jump where an embedding is 0, so narrow embeddings also get a step
    there.
    """

    def __init__(self, width: int, features: int) -> None:
        random = torch.Generator("cpu").manual_seed(0)  # nothing depends on its secrecy

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random, dtype=torch.float64, device="cpu")

        self._directions = drawn(width, features) / math.sqrt(width)
        self._shifts = drawn(features)
        self._narrow = None
        if width > LINEAR_WIDTH:
            self._narrow = drawn(width, LINEAR_WIDTH) / math.sqrt(width)
        self._weight = 0.0
        self._mean = self._square = torch.zeros(width, dtype=torch.float64, device="cpu")

    @property
    def width(self) -> int:
        """The number of numbers of an embedding."""
        return len(self._mean)

    @property
    def moments(self) -> tuple[float, Tensor, Tensor]:
        """The weight, mean and mean square of the rows so far."""
        return self._weight, self._mean, self._square

    @moments.setter
    def moments(self, moments: tuple[float, Tensor, Tensor]) -> None:
        self._weight, self._mean, self._square = moments

    def features_of(self, rows: Tensor, keep: float) -> Tensor:
        """Return the features of embeddings, after their mean and variance were noted."""
        weight = keep * self._weight + len(rows)
        share = len(rows) / weight
        self._mean = self._mean + share * (rows.mean(0) - self._mean)
        self._square = self._square + share * (rows.square().mean(0) - self._square)
        self._weight = weight
        spread = (self._square - self._mean.square()).clamp_min(0).sqrt()
        centred = rows - self._mean
        scaled = torch.where(spread > 1e-9 * self._square.sqrt(), centred / spread, 0.0)
        scaled = scaled.nan_to_num(0.0)
        plain = scaled if self._narrow is None else scaled @ self._narrow
        bent = F.relu(scaled @ self._directions + self._shifts)
        steps = (rows > 0).to(rows) if self._narrow is None else rows[:, :0]
        return torch.cat([torch.ones_like(plain[:, :1]), plain, steps, bent], dim=1)


@dataclass(slots=True)
class _Sums:
    """The sums over earlier rows, which decay, that the regression remembers.

    Attributes:
        moments: the products of features with features, [features, features].
        products: the products of features with gradients, [features, d].
        classes: the numbers of the classes so far, int64 of [classes].
        counts: the number of rows of each class, [classes].
        totals: the sum of the features of each class, [classes, features].
    """

    moments: Tensor
    products: Tensor
    classes: Tensor
    counts: Tensor
    totals: Tensor

    @classmethod
    def empty(cls, features: int, width: int) -> _Sums:
        """Return sums over no rows."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device="cpu")

        return cls(
            moments=zeros(features, features),
            products=zeros(features, width),
            classes=torch.zeros(0, dtype=torch.int64, device="cpu"),
            counts=zeros(0),
            totals=zeros(0, features),
        )

    @property
    def width(self) -> int:
        """The number of numbers of a gradient."""
        return self.products.shape[1]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The sums by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def take(self, inputs: Tensor, gradients: Tensor, labels: Tensor, keep: float) -> None:
        """Add the rows of a batch, after older rows have decayed by `keep`."""
        # Numbers of classes may be large, such as codes of products.
        fresh = torch.unique(labels)
        fresh = fresh[~torch.isin(fresh, self.classes)]
        self.classes = torch.cat([self.classes, fresh])
        self.counts = F.pad(self.counts, (0, len(fresh)))
        self.totals = F.pad(self.totals, (0, 0, 0, len(fresh)))
        order = self.classes.argsort()
        labels = order[torch.searchsorted(self.classes[order], labels)]
        self.moments = keep * self.moments + inputs.T @ inputs
        self.products = keep * self.products + inputs.T @ gradients
        self.counts = (keep * self.counts).index_add(0, labels, torch.ones_like(inputs[:, 0]))
        self.totals = (keep * self.totals).index_add(0, labels, inputs)

    def fit(self) -> _Fit:
        """Solve the regression, and rotate it so that its factors are uncorrelated."""
        rows = self.counts.sum()
        penalty = RIDGE * torch.eye(len(self.moments), dtype=torch.float64, device="cpu")
        moments = self.moments / rows + 1e-9 * penalty
        slopes = torch.linalg.solve(moments + penalty, self.products / rows)
        root = torch.linalg.cholesky(moments)
        left, sizes, right = torch.linalg.svd(root.T @ slopes, full_matrices=False)
        used = sizes > 1e-6 * sizes[0]
        factors = torch.linalg.solve_triangular(root.T, left[:, used], upper=True)
        means = self.totals / self.counts.clamp_min(1e-9)[:, None]
        return _Fit(factors, sizes[used], right[used], self.counts / rows, means @ factors)


@dataclass(frozen=True, slots=True)
class _Fit:
    """A regression in factors of the features whose second moments are the unit matrix.

    Attributes:
        factors: from features to factors, [features, r].
        sizes, directions: the root mean square of each factor's part of the gradients, [r], and
            its unit vector, [r, d].
        shares, means: the share of each class of the rows, [classes], and the means of its factors,
            [classes, r].
    """

    factors: Tensor
    sizes: Tensor
    directions: Tensor
    shares: Tensor
    means: Tensor

    def predict(self, inputs: Tensor, most: float) -> Tensor:
        """Return predictions with noise that leaves each class at most this squared distance."""
        factors = inputs @ self.factors
        strength = self.strength(most)
        parts = self.sizes[:, None] * self.directions
        clean = factors @ parts
        noise = strength * normal(factors, factors, strength) @ parts
        width = max(1, parts.shape[1])
        std = strength * float(self.sizes.square().sum() / width) ** 0.5
        return added(clean, noise, std)

    def strength(self, most: float) -> float:
        """Return the least noise, in units of the predictions, that hides all classes well enough.

        The squared distance of a class from all others along the best direction is
        q / (1 - s (1-s) q) for the share s of the class, where q is the distance in units of the
        covariance of all rows with noise. That covariance is (1 + strength^2) I - m m' for the mean
        m of all factors, which has an inverse in closed form.
        """
        shares, means = self.shares, self.means
        mixed = (shares > 0) & (shares < 1)
        if not bool(mixed.any()):
            return math.sqrt(1 / most)  # one class so far: there is nothing to measure
        mean = shares @ means
        gaps = (means - mean)[mixed] / (1 - shares[mixed])[:, None]  # from the mean of the others
        most_q = most / (1 + shares * (1 - shares) * most)[mixed]
        squares, along = gaps.square().sum(1), (gaps @ mean).square()
        length = mean.square().sum().clamp_max(1.0)

        def hides(strength: float) -> bool:
            noisy = 1 + strength**2
            q = (squares + along / (noisy - length).clamp_min(1e-12)) / noisy
            return bool((q <= most_q).all())

        low, high = 0.0, 1.0
        while not hides(high) and high < 1e9:
            low, high = high, 2 * high
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if hides(middle) else (middle, high)
        return high
