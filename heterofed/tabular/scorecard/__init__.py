"""Implements methods of credit scoring within one party.

These are bins, weight of evidence, information value, correlation, variance inflation, the
selection of columns by them, and tables of points. They use one party's columns and labels that
this party has: its own labels, or labels that the Host has randomised (`label_keeping`). Nothing is
sent.
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
