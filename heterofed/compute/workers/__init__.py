"""Computes one party's feature model in several processes, each on a part of the rows.

The rule of this package: rank 0 alone knows of other parties, hooks and optimizers. The other ranks
hold a copy of the feature model, and run the forward and backward passes that rank 0 asks for. They
keep nothing that a checkpoint would need.
"""
