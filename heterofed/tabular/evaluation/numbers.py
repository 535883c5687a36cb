"""Computes the metrics of regressions and counts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from heterofed.tabular.evaluation.ranking import calibration
from heterofed.tabular.evaluation.result import Curve, Evaluation

Floats = NDArray[np.float64]

CONSTANT = "all labels are the same: the share of their variance that is explained is undefined"
BINS = 30


def of_numbers(result: Evaluation, truth: Floats, scores: Floats, weights: Floats | None) -> None:
    """Add the metrics and curves of a regression, or of counts."""
    weighed = np.ones(len(truth)) if weights is None else weights
    constant = len(np.unique(truth[weighed > 0])) < 2
    if constant:
        result.notes.append(CONSTANT)
    squared = float(metrics.mean_squared_error(truth, scores, sample_weight=weights))
    result.metrics |= {
        "r2": math.nan
        if constant
        else float(metrics.r2_score(truth, scores, sample_weight=weights)),
        "mae": float(metrics.mean_absolute_error(truth, scores, sample_weight=weights)),
        "rmse": math.sqrt(squared),
    }
    if result.kind == "counts":
        _deviance(result, truth, scores, weights, constant=constant)
    result.curves["calibration"], _ = calibration(truth, scores, weighed)
    residuals = truth - scores
    counted, edges = np.histogram(residuals, bins=BINS, weights=weighed)
    result.curves["residuals"] = Curve.through(
        (edges[1:] + edges[:-1]) / 2, counted, ("label - prediction", "rows")
    )


def _deviance(
    result: Evaluation,
    truth: Floats,
    scores: Floats,
    weights: Floats | None,
    *,
    constant: bool,
) -> None:
    found = result.metrics
    found |= {"poisson_deviance": math.nan, "d2": math.nan}
    if (truth < 0).any():
        result.notes.append("a label is below 0: the Poisson deviance is undefined")
        return
    rates = scores.clip(min=1e-9)
    found["poisson_deviance"] = float(
        metrics.mean_poisson_deviance(truth, rates, sample_weight=weights)
    )
    if not constant:
        found["d2"] = float(metrics.d2_tweedie_score(truth, rates, sample_weight=weights, power=1))
