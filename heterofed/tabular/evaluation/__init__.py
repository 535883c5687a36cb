"""Measures how good scores are, with the metrics and curves that are usual in each field.

It takes labels as codes and scores as arrays, and knows no models or parties. Undefined numbers are
NaN, with a note that gives the reason: a test set of one class, for example, ends no run.
"""

from heterofed.tabular.evaluation.evaluate import evaluate
from heterofed.tabular.evaluation.result import Curve, Evaluation, Table

__all__ = ["Curve", "Evaluation", "Table", "evaluate"]
