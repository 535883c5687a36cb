"""Computes the metrics of tasks with several classes, or with several labels per row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from heterofed.tabular.evaluation.ranking import ONE_CLASS, calibration
from heterofed.tabular.evaluation.result import Evaluation, Table

Floats = NDArray[np.float64]


def of_classes(
    result: Evaluation,
    truth: NDArray[np.int64],
    scores: Floats,
    weights: Floats | None,
    names: Sequence[str],
) -> None:
    """Add the metrics, curves and tables of a task with several classes.

    Means over classes (macro F1, balanced accuracy, AUC) are taken over the classes that occur.
    """
    codes, said = list(range(scores.shape[1])), scores.argmax(axis=1)
    held = sorted(set(truth.tolist()))
    if len(held) < len(codes):
        absent = ", ".join(names[each] for each in codes if each not in held)
        result.notes.append(f"no row is of class {absent}: means over classes leave it out")
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, said, labels=codes, sample_weight=weights, zero_division=0.0
    )
    auc = [_one_auc(truth == code, scores[:, code], weights) for code in codes]
    total = scores.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, scores / np.where(total > 0, total, 1), 1 / scores.shape[1])
    result.metrics |= {
        "accuracy": float(metrics.accuracy_score(truth, said, sample_weight=weights)),
        "balanced_accuracy": float(recall[held].mean()),
        "macro_f1": float(f1[held].mean()),
        "log_loss": float(metrics.log_loss(truth, shares, sample_weight=weights, labels=codes)),
        "macro_auc": _mean([auc[code] for code in held]),
    }
    if len(held) < 2:
        result.notes.append(ONE_CLASS)
    result.tables["classes"] = Table.of(
        {
            "class": list(names),
            "rows": support.tolist(),
            "precision": precision.tolist(),
            "recall": [recall[each] if each in held else math.nan for each in codes],
            "f1": f1.tolist(),
            "auc": auc,
        }
    )
    table = metrics.confusion_matrix(truth, said, labels=codes, sample_weight=weights)
    result.tables["confusion"] = Table(
        ("class", *(f"predicted {name}" for name in names)),
        tuple((name, *row) for name, row in zip(names, table.tolist(), strict=True)),
    )
    right = (said == truth).astype(float)
    weighed = np.ones(len(truth)) if weights is None else weights
    result.curves["calibration"], result.metrics["calibration_error"] = calibration(
        right, shares.max(axis=1), weighed
    )


def of_several_labels(
    result: Evaluation,
    truth: Floats,
    scores: Floats,
    weights: Floats | None,
    names: Sequence[str],
    threshold: float,
) -> None:
    """Add the metrics and tables of a task with several labels per row."""
    said = (scores >= threshold).astype(int)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, said, average=None, sample_weight=weights, zero_division=0.0
    )
    each = [(truth[:, at], scores[:, at]) for at in range(truth.shape[1])]
    auc = [_one_auc(own == 1, score, weights) for own, score in each]
    if undefined := [name for name, one in zip(names, auc, strict=True) if math.isnan(one)]:
        result.notes.append(f"label {', '.join(undefined)}: {ONE_CLASS}")
    clipped = scores.clip(1e-12, 1 - 1e-12)
    losses = -(truth * np.log(clipped) + (1 - truth) * np.log(1 - clipped)).mean(axis=1)
    result.metrics |= {
        "macro_auc": _mean(auc),
        "macro_f1": float(f1.mean()),
        "micro_f1": float(
            metrics.f1_score(truth, said, average="micro", sample_weight=weights, zero_division=0.0)
        ),
        "subset_accuracy": float(metrics.accuracy_score(truth, said, sample_weight=weights)),
        "hamming_loss": float(metrics.hamming_loss(truth, said, sample_weight=weights)),
        "log_loss": float(np.average(losses, weights=weights)),
        "threshold": threshold,
    }
    result.tables["labels"] = Table.of(
        {
            "label": list(names),
            "rows": support.tolist(),
            "precision": precision.tolist(),
            "recall": recall.tolist(),
            "f1": f1.tolist(),
            "auc": auc,
        }
    )


def _one_auc(is_one: NDArray[np.bool_], scores: Floats, weights: Floats | None) -> float:
    held = is_one if weights is None else is_one[weights > 0]
    if not held.any() or held.all():
        return math.nan
    return float(metrics.roc_auc_score(is_one, scores, sample_weight=weights))


def _mean(values: Sequence[float]) -> float:
    defined = [each for each in values if not math.isnan(each)]
    return sum(defined) / len(defined) if defined else math.nan
