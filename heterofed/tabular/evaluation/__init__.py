"""How good scores are, in the numbers that each field expects, and the curves that show it.

Knows labels as codes and scores as arrays; no model, no party. Undefined numbers are NaN, with a
note that says why: a test set of one class ends no run.
"""

from heterofed.tabular.evaluation.evaluate import evaluate
from heterofed.tabular.evaluation.result import Curve, Evaluation, Table

__all__ = ["Curve", "Evaluation", "Table", "evaluate"]
