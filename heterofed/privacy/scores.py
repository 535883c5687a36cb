"""How well a score tells two classes apart. Knows tensors only."""

from __future__ import annotations

import torch
from torch import Tensor


def auc(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative.

    Ties count half (Mann and Whitney 1947).

    Args:
        scores: [rows], any float dtype; higher means "rather positive".
        positive: [rows], bool.

    Returns:
        Between 0 and 1; NaN where either class is empty.
    """
    return float(aucs(scores[:, None], positive[:, None])[0])


def aucs(scores: Tensor, positive: Tensor) -> Tensor:
    """`auc` of several scores at once.

    Args:
        scores: [rows, n].
        positive: [rows, n] bool.

    Returns:
        [n] float64; NaN where a class is empty.
    """
    positive = positive.to(torch.float64)
    wins = positive.sum(0), (1 - positive).sum(0)
    total = (_ranks(scores.detach()) * positive).sum(0)
    return (total - wins[0] * (wins[0] + 1) / 2) / (wins[0] * wins[1])


def _ranks(scores: Tensor) -> Tensor:
    """Ranks from 1 in each column; equal values share the mean of theirs."""
    columns = scores.T.contiguous()
    ordered = columns.sort(dim=1).values
    below = torch.searchsorted(ordered, columns, right=False)
    up_to = torch.searchsorted(ordered, columns, right=True)
    return ((below + up_to + 1).to(torch.float64) / 2).T


def folded(value: float) -> float:
    """An AUC seen by an attacker who may turn the score around: never below 0.5."""
    return max(value, 1 - value)
