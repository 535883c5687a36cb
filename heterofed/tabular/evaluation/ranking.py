"""Computes the metrics of a binary task: ranking, probabilities, and decisions at a threshold."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from heterofed.tabular.evaluation.result import Curve, Evaluation, Table

Floats = NDArray[np.float64]

DECILES = 10
ONE_CLASS = "all rows are of one class: what ranks one class before the other is undefined"


def of_two_classes(
    result: Evaluation, truth: Floats, scores: Floats, weights: Floats | None, threshold: float
) -> None:
    """Add the metrics, curves and tables of a binary task."""
    found = result.metrics
    weighed = np.ones(len(truth)) if weights is None else weights
    found |= dict.fromkeys(("auc", "pr_auc", "ks", "gini"), math.nan)
    if _has_both(truth, weighed):
        _rank(result, truth, scores, weights)
    else:
        result.notes.append(ONE_CLASS)
    probabilities = scores.clip(0, 1)
    found["brier"] = float(np.average((probabilities - truth) ** 2, weights=weighed))
    found["log_loss"] = float(
        metrics.log_loss(truth, probabilities, sample_weight=weights, labels=[0, 1])
    )
    result.curves["calibration"], found["calibration_error"] = calibration(
        truth, probabilities, weighed
    )
    _decide(result, truth, scores, weights, threshold)
    _lift(result, truth, scores, weighed)


def _lift(result: Evaluation, truth: Floats, scores: Floats, weights: Floats) -> None:
    deciles = lift_table(truth, scores, weights)
    result.tables["deciles"] = deciles
    gain = [row[-1] for row in deciles.rows]
    if not math.isnan(gain[-1]):
        shares = np.linspace(0, 1, len(gain) + 1)
        labels = ("share of rows, best scores first", "share of the positive class found")
        result.curves["gain"] = Curve.through(shares, [0, *gain], labels)


def _has_both(truth: Floats, weights: Floats) -> bool:
    return len(set(truth[weights > 0].tolist())) == 2


def _rank(result: Evaluation, truth: Floats, scores: Floats, weights: Floats | None) -> None:
    false, true, at = metrics.roc_curve(truth, scores, sample_weight=weights)
    best = int(np.argmax(true - false))
    auc = float(metrics.auc(false, true))
    result.metrics |= {
        "auc": auc,
        "pr_auc": float(metrics.average_precision_score(truth, scores, sample_weight=weights)),
        "ks": float(true[best] - false[best]),
        "gini": 2 * auc - 1,
        "ks_threshold": float(min(at[best], scores.max())),
    }
    result.curves["roc"] = Curve.through(false, true, ("false positive rate", "true positive rate"))
    precision, recall, _ = metrics.precision_recall_curve(truth, scores, sample_weight=weights)
    result.curves["pr"] = Curve.through(recall[::-1], precision[::-1], ("recall", "precision"))


def _decide(
    result: Evaluation,
    truth: Floats,
    scores: Floats,
    weights: Floats | None,
    threshold: float,
) -> None:
    said = (scores >= threshold).astype(int)
    table = metrics.confusion_matrix(truth, said, labels=[0, 1], sample_weight=weights)
    (true_no, false_yes), (false_no, true_yes) = table.astype(float)
    result.tables["confusion"] = Table(
        ("label", "predicted 0", "predicted 1"), ((0, *table[0].tolist()), (1, *table[1].tolist()))
    )
    result.metrics |= {
        "threshold": threshold,
        "accuracy": (true_no + true_yes) / table.sum(),
        "precision": _share(true_yes, true_yes + false_yes),
        "recall": _share(true_yes, true_yes + false_no),
        "f1": _share(2 * true_yes, 2 * true_yes + false_yes + false_no),
    }


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def calibration(truth: Floats, said: Floats, weights: Floats) -> tuple[Curve, float]:
    """Return mean label and mean score in ten groups of equal weight, and their mean distance.

    The mean distance is the expected calibration error.
    """
    group = quantile_groups(said, weights, DECILES)
    size = np.bincount(group, weights)
    held = size > 0
    size = size[held]
    mean_said = np.bincount(group, weights * said)[held] / size
    mean_truth = np.bincount(group, weights * truth)[held] / size
    error = float(np.average(np.abs(mean_said - mean_truth), weights=size))
    return Curve.through(mean_said, mean_truth, ("mean score", "mean label")), error


def quantile_groups(scores: Floats, weights: Floats, groups: int) -> NDArray[np.int64]:
    """Return the group of each row, from the lowest scores (0) to the highest.

    The groups have equal weight, except that equal scores are in one group.
    """
    distinct, at = np.unique(scores, return_inverse=True)
    held = np.bincount(at, weights, minlength=len(distinct))
    middle = (np.cumsum(held) - held / 2) / max(held.sum(), 1e-300)
    group: NDArray[np.int64] = np.minimum((middle * groups).astype(np.int64), groups - 1)
    return group[at]


def lift_table(truth: Floats, scores: Floats, weights: Floats) -> Table:
    """Return lift and gain by decile, the highest scores first.

    Rows with equal scores share their labels, so that their order has no effect. A row on the
    border of two deciles counts in both by its parts.
    """
    distinct, at = np.unique(-scores, return_inverse=True)
    size = np.bincount(at, weights, minlength=len(distinct))
    hits = np.bincount(at, weights * truth, minlength=len(distinct))
    least = np.bincount(at, weights * scores, minlength=len(distinct)) / np.maximum(size, 1e-300)
    ends = np.linspace(0, size.sum(), min(DECILES, len(truth)) + 1)
    reached = np.concatenate([[0], np.cumsum(size)])
    found = np.interp(ends, reached, np.concatenate([[0], np.cumsum(hits)]))
    rows, positives, total = np.diff(ends), np.diff(found), hits.sum()
    rate = positives / rows
    overall = total / size.sum()
    last = np.searchsorted(reached[1:], ends[1:] * (1 - 1e-12)).clip(max=len(distinct) - 1)
    undefined = np.full(len(rows), math.nan)
    return Table.of(
        {
            "decile": range(1, len(rows) + 1),
            "rows": rows.tolist(),
            "lowest score": least[last].tolist(),
            "positives": positives.tolist(),
            "rate": rate.tolist(),
            "lift": (rate / overall if total else undefined).tolist(),
            "cumulative lift": (found[1:] / ends[1:] / overall if total else undefined).tolist(),
            "gain": (found[1:] / total if total else undefined).tolist(),
        }
    )
