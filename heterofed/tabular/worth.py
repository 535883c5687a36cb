"""What a partner is worth: a difference with its interval, shares of one model, and of columns.

All of it is computed where the labels are, from scores or from features at the cut layer; no column
is known here but by its number.
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
"""Of which all coalitions are evaluated: 4096 passes over the rows."""

HEADLINE: dict[Kind, str] = {
    "binary": "auc",
    "multiclass": "log_loss",
    "multilabel": "macro_auc",
    "regression": "r2",
    "counts": "d2",
}
"""The number by which a partner's worth is told, by kind of task."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What the joint model gains on the local one.

    Attributes:
        metric: the number that both are judged by; a larger one is better (a loss counts negative).
        joint, local: of each model.
        gain: the difference.
        low, high: bounds of it; where the rows were drawn again, it lay between them that often.
        level: how often that is.
        rows: how many rows both were judged on.
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
        """Whether the interval leaves out 0: the rows would hardly look so if there was no gain."""
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
    models are judged on the same draw, and the percentiles of the differences are its bounds. It
    tells how much hangs on these test rows, not on the seed of the training.

    Args:
        kind: of the task.
        labels: as `Labels.encode` gives them.
        joint: scores of the model with the partners' columns, as `Objective.scores` gives them.
        local: scores of the model without.
        weights: sample weights.
        samples: how often rows are drawn.
        level: of the interval.
        seed: of the draws.

    Raises:
        ConfigError: no such kind, or a setting out of range.
        ColumnError: the rows do not fit together, or the number is undefined on them.
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
    """The number by which worth is told, as a function of the weights of the rows; a larger one is
    better, and NaN is undefined. What does not hang on the weights is computed once.

    Raises:
        ConfigError: no such kind.
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
    """The chance that a positive row has a higher score than a negative one; a tie counts half."""
    distinct, at = np.unique(scores, return_inverse=True)

    def auc(weights: Floats) -> float:
        positive = np.bincount(at, weights * truth, minlength=len(distinct))
        negative = np.bincount(at, weights * (1 - truth), minlength=len(distinct))
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative / 2
        return float(positive @ below / pairs) if pairs > 0 else math.nan

    return auc


def _deviance(truth: Floats, rates: Any) -> Floats:
    """Of Poisson, of each row; rates from 1e-9 on."""
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
    """The exact Shapley value of each player (Shapley 1953).

    Args:
        players: at most 12, since each of their coalitions is asked for once.
        value: of a coalition.

    Returns:
        By player; their sum is the value of all, less that of none.

    Raises:
        ConfigError: more players.
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
    """How much of a model's quality each party brings, from one model, at the Host.

    A party that is left out has zeros for features, as the Host saw them in training with
    `party_dropout`: without that the numbers tell what the model makes of rows that it never saw.
    The Host comes first, since nothing is predicted without it: its share is what it reaches alone
    over a model that knows nothing; the others share what they add, by their Shapley values.

    Args:
        kind: of the task.
        scores_of: from a projection to scores, such as `lambda each:
            objective.scores(self.infer_model(each))`.
        projections: of the test batches: features by party, as `test` gets them.
        labels: of the rows of all batches.
        host: the Host's feature key; it may have no features.
        weights: sample weights.

    Returns:
        By party, the Host first; their sum is the metric of the whole model, less that of a model
        that gives every row the same score.

    Raises:
        ConfigError: more than 12 Collaborators, or no such kind.
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
    """The best scores of a model that knows nothing of any row."""
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
    """How much worse a model is where the values of a column were dealt out to other rows.

    Breiman (2001). Who has the columns permutes them, one at a time, and sends features as of any
    rows; who has the labels knows the columns by their number alone.

    Args:
        kind: of the task.
        labels: of the rows.
        whole: their scores.
        permuted: for each column, in the order that its owner keeps for itself, the scores of the
            same rows with that column permuted.
        weights: sample weights.

    Returns:
        For each column the metric of the whole, less that with the column permuted.
    """
    truth = _floats(labels)
    weighed = _weights(weights, len(truth))
    reached = judge(kind, truth, _floats(whole))(weighed)
    return [reached - judge(kind, truth, _floats(each))(weighed) for each in permuted]
