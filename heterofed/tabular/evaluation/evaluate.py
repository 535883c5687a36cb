"""Defines `evaluate`, which checks its arguments and calls the metrics of the kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.evaluation.classes import of_classes, of_several_labels
from heterofed.tabular.evaluation.numbers import of_numbers
from heterofed.tabular.evaluation.ranking import of_two_classes
from heterofed.tabular.evaluation.result import Evaluation
from heterofed.tabular.objectives import KINDS, Kind

Floats = NDArray[np.float64]


def evaluate(
    kind: Kind,
    labels: Any,
    scores: Any,
    weights: Any = None,
    *,
    threshold: float = 0.5,
    classes: Sequence[Any] = (),
) -> Evaluation:
    """Evaluate scores by labels.

    Args:
        kind: the kind of the task.
        labels: the labels as `Labels.encode` returns them: codes [rows], [rows, labels] of 0 and 1,
            or numbers.
        scores: the scores as `Objective.scores` returns them: probabilities [rows] of a binary
            task, otherwise [rows, classes]; or expected numbers [rows].
        weights: the sample weights [rows], by which every metric counts rows.
        threshold: the probability from which on a row is predicted as positive.
        classes: the names of the classes for the tables; their codes by default.

    Returns:
        Metrics, tables and curves. A metric that cannot be computed (because there is only one
        class, or scores are not finite) is NaN, and a note gives the reason.

    Raises:
        ConfigError: the kind is unknown, or the threshold is not between 0 and 1.
        ColumnError: labels, scores and weights do not fit together.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind={kind!r}: give one of {', '.join(KINDS)}")
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold={threshold!r}: give a probability from 0 to 1")
    truth, given = _array(labels), _array(scores)
    weighed = None if weights is None else _array(weights)
    _must_fit(kind, truth, given, weighed)
    result = Evaluation(kind, len(truth))
    bad = ~np.isfinite(given).all(axis=tuple(range(1, given.ndim)))
    if bad.any():
        result.notes.append(
            f"{int(bad.sum())} of {len(truth)} rows have a score that is not finite: the model"
            " has diverged, or such values came in; they are left out"
        )
        truth, given = truth[~bad], given[~bad]
        weighed = None if weighed is None else weighed[~bad]
    if weighed is not None and not weighed.sum() > 0:
        truth, given, weighed = truth[:0], given[:0], None
    if not len(truth):
        result.notes.append("no row is left to judge by")
        return result
    names = [str(each) for each in classes] or [str(each) for each in range(_width(given))]
    if kind == "binary":
        of_two_classes(result, truth, given, weighed, threshold)
    elif kind == "multiclass":
        of_classes(result, truth.astype(int), given, weighed, names)
    elif kind == "multilabel":
        of_several_labels(result, truth, given, weighed, names, threshold)
    else:
        of_numbers(result, truth, given, weighed)
    return result


def _array(values: Any) -> Floats:
    array = values.detach().cpu().double().numpy() if hasattr(values, "detach") else values
    return np.asarray(array, dtype=np.float64)


def _width(scores: Floats) -> int:
    return scores.shape[1] if scores.ndim == 2 else 2


def _must_fit(kind: Kind, labels: Floats, scores: Floats, weights: Floats | None) -> None:
    wide = kind in ("multiclass", "multilabel")
    if scores.ndim != 1 + wide or labels.ndim != 1 + (kind == "multilabel"):
        raise ColumnError(
            f"a {kind} task: labels of shape {labels.shape} and scores of shape {scores.shape}"
        )
    if len(labels) != len(scores) or (weights is not None and weights.shape != labels.shape[:1]):
        raise ColumnError(f"{len(labels)} labels, {len(scores)} scores, and weights: rows differ")
    if not np.isfinite(labels).all() or (weights is not None and not _are_weights(weights)):
        raise ColumnError("labels and weights must be finite numbers, weights from 0")
    if (kind in ("binary", "multilabel") and not np.isin(labels, (0, 1)).all()) or (
        kind == "multiclass" and not np.isin(labels, np.arange(scores.shape[1])).all()
    ):
        raise ColumnError(f"a {kind} task: labels must be the codes of its classes")


def _are_weights(weights: Floats) -> bool:
    return bool(np.isfinite(weights).all() and (weights >= 0).all())
