"""The habits of credit scoring, within one party: bins, weight of evidence, information value,
correlation, variance inflation, and the selection of columns by them.

Its one rule: it computes from one party's columns, and from labels that this party has: its own
ones, or ones that the Host has turned at random (`label_keeping`). Nothing travels.
"""

from heterofed.tabular.scorecard.binning import Bins, bin_column
from heterofed.tabular.scorecard.evidence import Evidence, evidence
from heterofed.tabular.scorecard.relations import correlations, variance_inflation
from heterofed.tabular.scorecard.selection import Selection, select

__all__ = [
    "Bins",
    "Evidence",
    "Selection",
    "bin_column",
    "correlations",
    "evidence",
    "select",
    "variance_inflation",
]
