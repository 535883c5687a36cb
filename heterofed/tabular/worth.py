"""Measures what a partner is worth: a difference with its interval, and shares of parties and
columns.

Everything is computed where the labels are, from scores or from features at the cut layer. Columns
are known here only by their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import xlogy
from torch import Tensor

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.objectives import KINDS, Kind

Floats = NDArray[np.float64]
Judge = Callable[[Floats], float]
Projection = Mapping[str, Any]

MOST_PARTIES = 12
"""The most players of which all coalitions are evaluated, which takes 4096 passes over the rows."""

HEADLINE: dict[Kind, str] = {
    "binary": "auc",
    "multiclass": "log_loss",
    "multilabel": "macro_auc",
    "regression": "r2",
    "counts": "d2",
}
"""The metric by which a partner's worth is measured, by kind of task."""


@dataclass(frozen=True, slots=True)
class Worth:
    """The gain of the joint model over the local one.

    Attributes:
        metric: the metric that measures both; a larger value is better (a loss counts negative).
        joint, local: the metric of each model.
        gain: the difference.
        low, high: the bounds between which the gain was with the frequency `level` when the rows
            were drawn again.
        level: the confidence level of the interval.
        rows: the number of rows on which both were evaluated.
    """

    metric: str
    joint: float
    local: float
    gain: float
    low: float
    high: float
    level: float
    rows: int

    @property
    def is_sure(self) -> bool:
        """Whether the interval does not contain 0, so that the gain is hardly due to chance."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        verdict = "" if self.is_sure else "; it may be nothing: 0 is within"
        return (
            f"{self.metric} {self.joint:.4f} with the partners, {self.local:.4f} without: a gain of"
            f" {self.gain:+.4f} ({self.level:.0%} interval {self.low:+.4f} to {self.high:+.4f},"
            f" {self.rows} rows{verdict})"
        )


def worth(
    kind: Kind,
    labels: Any,
    joint: Any,
    local: Any,
    weights: Any = None,
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Worth:
    """Compare the scores of two models on the same test rows.

    The interval is a paired bootstrap (Efron 1979): rows are drawn again with replacement, both
    models are evaluated on the same sample, and the percentiles of the differences are its bounds.
    It says how much the gain depends on these test rows, and not on the seed of the training.

    Args:
        kind: the kind of the task.
        labels: the labels as `Labels.encode` returns them.
        joint: the scores of the model with the partners' columns, as `Objective.scores` returns
            them.
        local: the scores of the model without them.
        weights: the sample weights.
        samples: the number of bootstrap samples.
        level: the confidence level of the interval.
        seed: the seed of the samples.

    Raises:
        ConfigError: the kind is unknown, or a setting is out of range.
        ColumnError: the rows do not fit together, or the metric is undefined on them.
    """
    if not 0 < level < 1 or isinstance(samples, bool) or samples < 10:
        raise ConfigError("worth: give a level between 0 and 1, and at least 10 samples")
    truth, one, other = (_floats(each) for each in (labels, joint, local))
    weighed = _weights(weights, len(truth))
    if not len(truth) == len(one) == len(other) == len(weighed):
        raise ColumnError("worth: labels, scores and weights must be of the same rows")
    judges = judge(kind, truth, one), judge(kind, truth, other)
    with_them, without = (each(weighed) for each in judges)
    if not np.isfinite((with_them, without)).all():
        raise ColumnError(
            f"worth: {HEADLINE[kind]} is undefined on these rows: they are of one class, or a score"
            " is not finite"
        )
    draws, even = np.random.default_rng(seed), np.full(len(truth), 1 / len(truth))
    drawn = (weighed * draws.multinomial(len(truth), even) for _ in range(samples))
    gains = [judges[0](each) - judges[1](each) for each in drawn]
    low, high = np.nanquantile(gains, [(1 - level) / 2, (1 + level) / 2])
    return Worth(
        metric=HEADLINE[kind],
        joint=with_them,
        local=without,
        gain=with_them - without,
        low=float(low),
        high=float(high),
        level=level,
        rows=len(truth),
    )


def _weights(given: Any, rows: int) -> Floats:
    return np.ones(rows) if given is None else _floats(given)


def judge(kind: Kind, truth: Floats, scores: Floats) -> Judge:
    """Return the metric of worth as a function of the weights of the rows.

    A larger value is better, and NaN is undefined. Parts that do not depend on the weights are
    computed once.

    Raises:
        ConfigError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind={kind!r}: give one of {', '.join(KINDS)}")
    if kind == "binary":
        return _auc(truth, scores)
    if kind == "multilabel":
        each = [_auc(truth[:, at], scores[:, at]) for at in range(truth.shape[1])]
        return lambda weights: _mean_of_defined([one(weights) for one in each])
    if kind == "multiclass":
        own = scores[np.arange(len(truth)), truth.astype(int)] / scores.sum(axis=1)
        likelihood = np.log(own.clip(1e-15))
        return lambda weights: float(np.average(likelihood, weights=weights))
    losses = (truth - scores) ** 2 if kind == "regression" else _deviance(truth, scores)

    def explained(weights: Floats) -> float:
        mean = np.average(truth, weights=weights)
        least = (truth - mean) ** 2 if kind == "regression" else _deviance(truth, mean)
        whole = float(weights @ least)
        return 1 - float(weights @ losses) / whole if whole > 0 else math.nan

    return explained


def _auc(truth: Floats, scores: Floats) -> Judge:
    """Return the probability that a positive row has a higher score than a negative one.

    A tie counts half.
    """
    distinct, at = np.unique(scores, return_inverse=True)

    def auc(weights: Floats) -> float:
        positive = np.bincount(at, weights * truth, minlength=len(distinct))
        negative = np.bincount(at, weights * (1 - truth), minlength=len(distinct))
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative / 2
        return float(positive @ below / pairs) if pairs > 0 else math.nan

    return auc


def _deviance(truth: Floats, rates: Any) -> Floats:
    """Return the Poisson deviance of each row; rates are at least 1e-9."""
    rates = np.clip(rates, 1e-9, None)
    return 2 * (xlogy(truth, truth / rates) - truth + rates)  # type: ignore[no-any-return]


def _mean_of_defined(values: Sequence[float]) -> float:
    defined = [one for one in values if not math.isnan(one)]
    return sum(defined) / len(defined) if defined else math.nan


def _floats(values: Any) -> Floats:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return np.asarray(array, dtype=np.float64)


# -- shares of one model ---------------------------------------------------------------------


def shapley(players: Sequence[str], value: Callable[[frozenset[str]], float]) -> dict[str, float]:
    """Return the exact Shapley value of each player (Shapley 1953).

    Args:
        players: the players, at most 12, since each of their coalitions is evaluated once.
        value: returns the value of a coalition.

    Returns:
        The values by player; their sum is the value of all players minus that of none.

    Raises:
        ConfigError: there are more players.
    """
    if len(players) > MOST_PARTIES:
        raise ConfigError(
            f"Shapley values of {len(players)} parties take {2 ** len(players)} evaluations; the"
            f" most is {MOST_PARTIES} parties"
        )
    count = len(players)
    values = {
        frozenset(some): value(frozenset(some))
        for size in range(count + 1)
        for some in combinations(players, size)
    }
    shares = {}
    for player in players:
        others = [each for each in players if each != player]
        shares[player] = math.fsum(
            (values[with_it := frozenset({*some, player})] - values[with_it - {player}])
            / (count * math.comb(count - 1, size))
            for size in range(count)
            for some in combinations(others, size)
        )
    return shares


@torch.no_grad()
def party_shares(
    kind: Kind,
    scores_of: Callable[[Projection], Tensor],
    projections: Sequence[Projection],
    labels: Any,
    *,
    host: str,
    weights: Any = None,
) -> dict[str, float]:
    """Measure at the Host how much each party contributes to the quality of one model.

    The features of a party that is left out are zeros, as the Host saw them in training with
    `party_dropout`. Without it the numbers describe the model on rows of a kind that it never saw.
    The Host comes first, since nothing is predicted without it: its share is the gain of the Host
    alone over a constant model. The others share the rest, by their Shapley values.

    Args:
        kind: the kind of the task.
        scores_of: computes scores from a projection, such as `lambda each:
            objective.scores(self.infer_model(each))`.
        projections: the features of the test batches by party, as `test` gets them.
        labels: the labels of the rows of all batches.
        host: the Host's feature key; it may have no features.
        weights: the sample weights.

    Returns:
        The shares by party, the Host first. Their sum is the metric of the whole model minus that
        of a model that gives every row the same score.

    Raises:
        ConfigError: there are more than 12 Collaborators, or the kind is unknown.
    """
    truth = _floats(labels)
    weighed = _weights(weights, len(truth))

    def value(present: frozenset[str]) -> float:
        kept = {*present, host}
        scores = torch.cat(
            [
                scores_of(
                    {name: held if name in kept else _zeros(held) for name, held in one.items()}
                )
                for one in projections
            ]
        )
        return judge(kind, truth, _floats(scores))(weighed)

    others = [name for name in projections[0] if name != host]
    alone = value(frozenset()) - judge(kind, truth, _constant(kind, truth, weighed))(weighed)
    return {host: alone, **shapley(others, value)}


def _constant(kind: Kind, truth: Floats, weights: Floats) -> Floats:
    """Return the best scores that do not depend on the row."""
    if kind == "multiclass":
        classes = int(truth.max()) + 1
        held = np.bincount(truth.astype(int), weights, minlength=classes)
        return np.tile(held / held.sum(), (len(truth), 1))
    return np.broadcast_to(np.average(truth, axis=0, weights=weights), truth.shape)


def _zeros(features: Any) -> Any:
    if isinstance(features, Tensor):
        return torch.zeros_like(features)
    if isinstance(features, Mapping):
        return {name: _zeros(each) for name, each in features.items()}
    return tuple(map(_zeros, features))


# -- shares of columns -----------------------------------------------------------------------


def permutation_drops(
    kind: Kind, labels: Any, whole: Any, permuted: Sequence[Any], weights: Any = None
) -> list[float]:
    """Return how much worse a model is if the values of a column are permuted over the rows.

    This is the permutation importance of Breiman (2001). The owner of the columns permutes them,
    one at a time, and sends features as for any rows. The party with the labels knows the columns
    only by their numbers.

    Args:
        kind: the kind of the task.
        labels: the labels of the rows.
        whole: the scores of the rows.
        permuted: for each column, in the order that its owner keeps to itself, the scores of the
            same rows with that column permuted.
        weights: the sample weights.

    Returns:
        For each column, the metric of the unchanged rows minus that with the column permuted.
    """
    truth = _floats(labels)
    weighed = _weights(weights, len(truth))
    reached = judge(kind, truth, _floats(whole))(weighed)
    return [reached - judge(kind, truth, _floats(each))(weighed) for each in permuted]
