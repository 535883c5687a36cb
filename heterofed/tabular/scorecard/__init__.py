"""The habits of credit scoring, within one party: bins, weight of evidence, information value,
correlation, variance inflation, the selection of columns by them, and tables of points.

Its one rule: it computes from one party's columns, and from labels that this party has: its own
ones, or ones that the Host has turned at random (`label_keeping`). Nothing travels.
"""

from heterofed.tabular.scorecard.binning import Bins, bin_column
from heterofed.tabular.scorecard.evidence import Evidence, evidence
from heterofed.tabular.scorecard.points import Scorecard, build_scorecard
from heterofed.tabular.scorecard.relations import correlations, variance_inflation
from heterofed.tabular.scorecard.selection import Selection, select

__all__ = [
    "Bins",
    "Evidence",
    "Scorecard",
    "Selection",
    "bin_column",
    "build_scorecard",
    "correlations",
    "evidence",
    "select",
    "variance_inflation",
]
