"""Measures how well a score separates two classes."""

from __future__ import annotations

import torch
from torch import Tensor


def auc(scores: Tensor, positive: Tensor) -> float:
    """Return the area under the ROC curve (AUC).

    It is the probability that a positive has a higher score than a negative. Ties count half (Mann
    and Whitney 1947).

    Args:
        scores: the scores, floats of shape [rows]; a higher score means "more likely positive".
        positive: whether each row is positive, bools of shape [rows].

    Returns:
        A number between 0 and 1; NaN if a class is empty.
    """
    return float(aucs(scores[:, None], positive[:, None])[0])


def aucs(scores: Tensor, positive: Tensor) -> Tensor:
    """Return the `auc` of several scores at once.

    Args:
        scores: the scores, of shape [rows, n].
        positive: whether each row is positive for each score, bools of shape [rows, n].

    Returns:
        A float64 tensor of shape [n]; NaN if a class is empty.
    """
    positive = positive.to(torch.float64)
    wins = positive.sum(0), (1 - positive).sum(0)
    total = (_ranks(scores.detach()) * positive).sum(0)
    return (total - wins[0] * (wins[0] + 1) / 2) / (wins[0] * wins[1])


def _ranks(scores: Tensor) -> Tensor:
    """Return the ranks from 1 in each column; equal values share their mean rank."""
    columns = scores.T.contiguous()
    ordered = columns.sort(dim=1).values
    below = torch.searchsorted(ordered, columns, right=False)
    up_to = torch.searchsorted(ordered, columns, right=True)
    return ((below + up_to + 1).to(torch.float64) / 2).T


def folded(value: float) -> float:
    """Return the AUC of an attacker who may invert the score, which is at least 0.5."""
    return max(value, 1 - value)
