"""Defines the networks of tabular tasks: each party's half, and the model on top at the Host.

Every network is made from a plain description in its `state_dict`, so a file of weights is enough
to make it again. This package uses torch and `prepare`, and knows no connections or files.
"""

from heterofed.tabular.models.half import Half, HalfPlan
from heterofed.tabular.models.optimizer import SparseAdamW, make_optimizer, warm_up
from heterofed.tabular.models.top import Top, TopPlan

__all__ = ["Half", "HalfPlan", "SparseAdamW", "Top", "TopPlan", "make_optimizer", "warm_up"]
