"""Defines what a model learns: how labels are read, and the loss and scores of each kind of task.

It knows no parties, tables or files: labels come in as values, and tensors go out.
"""

from heterofed.tabular.objectives.labels import KINDS, Kind, Labels, read_labels
from heterofed.tabular.objectives.objective import Objective, check_weights

__all__ = ["KINDS", "Kind", "Labels", "Objective", "check_weights", "read_labels"]
