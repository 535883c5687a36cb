"""The limits in the terms of a task on what may leave a party, which each party enforces itself.

They are a part of the plan. With a task file they are its table `[limits]`, to which every party
consents. This module says what a limit is; `heterofed.privacy.leak_tests` measures leaks, and the
guards of `heterofed.hetero_nn.train` compare them with the limits before anything is sent.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Epsilon = Annotated[float, Meta(gt=0, le=1e9)]
Number = Annotated[int, Meta(ge=1, le=2**40)]


class LeakLimits(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    repr_omit_defaults=True,
):
    """The limits that the parties agreed on; None sets no limit.

    Attributes:
        max_label_auc: the highest AUC with which the gradients that the Host sends may reveal its
            labels, by the known attacks; 0.5 is a guess.
        max_input_r2: the largest share of the variance of a Collaborator's inputs that a linear
            attack may rebuild from the features that it sends.
        max_eps_labels: the largest epsilon of the Host's labels, which needs `label_dp`.
        max_eps_embeddings: the largest epsilon of a Collaborator's rows, which needs
            `ClippedGaussian`.
        max_eps_weights: the largest epsilon of the weights of a party that trains, which needs
            `DPSGD`.
        max_rounds: the most rounds that may begin, repeated ones included.
        max_releases_per_row: the most times that features or gradients of any row may be sent.
        min_intersection: the fewest ids that all parties must have in common, and that must be in
            the split.
        min_batch: the fewest rows of a batch in training and tests.
        max_ids: the most ids that a party may bring, and that may be tested against another
            party's ids.
        max_bytes: the most bytes that a party may send.
        raise_defence: whether a party whose measured leak has reached its limit may raise its
            defence and go on; otherwise the task ends.
    """

    max_label_auc: Annotated[float, Meta(ge=0.5, lt=1)] | None = None
    max_input_r2: Annotated[float, Meta(gt=0, lt=1)] | None = None
    max_eps_labels: Epsilon | None = None
    max_eps_embeddings: Epsilon | None = None
    max_eps_weights: Epsilon | None = None
    max_rounds: Number | None = None
    max_releases_per_row: Number | None = None
    min_intersection: Number | None = None
    min_batch: Number | None = None
    max_ids: Number | None = None
    max_bytes: Number | None = None
    raise_defence: bool = False

    def of(self, measure: str) -> float | None:
        """Return the limit of a measure: a name of a field without `max_` or `min_`."""
        found: float | None = getattr(self, f"max_{measure}", None)
        return found
