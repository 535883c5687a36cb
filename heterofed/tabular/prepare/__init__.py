"""Converts a party's columns to tensors, by steps fitted on its train rows and kept as plain data.

This package uses pandas, NumPy, scikit-learn and torch, and knows no parties, models or files.
"""

from heterofed.tabular.prepare.categories import Embed, OneHot
from heterofed.tabular.prepare.choose import choose
from heterofed.tabular.prepare.inputs import Bag, Inputs, Shape
from heterofed.tabular.prepare.numbers import Impute, Scale
from heterofed.tabular.prepare.preparation import Preparation, Step
from heterofed.tabular.prepare.spread import SpreadTags
from heterofed.tabular.prepare.tokens import HashText, Tags
from heterofed.tabular.prepare.truths import Booleans, Dates
from heterofed.tabular.prepare.woe import WOE

__all__ = [
    "WOE",
    "Bag",
    "Booleans",
    "Dates",
    "Embed",
    "HashText",
    "Impute",
    "Inputs",
    "OneHot",
    "Preparation",
    "Scale",
    "Shape",
    "SpreadTags",
    "Step",
    "Tags",
    "choose",
]
