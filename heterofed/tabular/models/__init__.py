"""The networks of tabular tasks: each party's half, and the model on top at the Host.

Every network is made from a plain description that its `state_dict` holds, so a file of weights is
enough to make it again. Knows torch and `prepare`; nothing of parties' connections or files.
"""

from heterofed.tabular.models.half import Half, HalfPlan
from heterofed.tabular.models.optimizer import SparseAdamW, make_optimizer, warm_up
from heterofed.tabular.models.top import Top, TopPlan

__all__ = ["Half", "HalfPlan", "SparseAdamW", "Top", "TopPlan", "make_optimizer", "warm_up"]
