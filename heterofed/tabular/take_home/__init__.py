"""Makes a model that needs the Host's columns only from the predictions of a joint one.

`student` trains it, `model` keeps and applies it, `compared` says what it loses, and `distil` does
all of it. None of them talks to another party: whether joint predictions may be used for this is
decided, and enforced, where they are asked for (`HeteroNNHostScheduler.predict`).
"""

from heterofed.tabular.take_home.compared import Compared
from heterofed.tabular.take_home.model import TakeHome

__all__ = ["Compared", "TakeHome"]
