"""Rows of batches of different lengths that meet in one batch of a prediction."""

from __future__ import annotations

import pytest
import torch

from heterofed.errors import FeatureError
from heterofed.hetero_nn.train.lengths import may_follow, one_after_another


def test_shorter_rows_get_zeros_at_the_end() -> None:
    short, long = torch.ones(2, 1, 3), torch.ones(1, 4, 3)
    for first, then in ((short, long), (long, short)):
        both = one_after_another(first, then, 1000, "bob")
        assert both.shape == (3, 4, 3)
        assert both.sum() == first.sum() + then.sum()
        assert torch.equal(both[: len(first), : first.shape[1]], first)
    masks = one_after_another(torch.ones(1, 1).bool(), torch.ones(1, 2).bool(), 9, "bob")
    assert masks.tolist() == [[True, False], [True, True]]
    assert one_after_another(short, short, 1000, "bob").shape == (4, 1, 3)


def test_one_long_row_makes_no_room_of_many_short_ones() -> None:
    with pytest.raises(FeatureError, match="bob sent rows of very different lengths"):
        one_after_another(torch.zeros(1000, 1, 1), torch.zeros(1, 1000, 1), 100_000, "bob")


@pytest.mark.parametrize(
    ("tensor", "like", "may"),
    [
        (torch.zeros(2, 5, 3), torch.zeros(4, 3), True),
        (torch.zeros(2, 3, 5), torch.zeros(3, 4), True),
        (torch.zeros(2, 5), torch.zeros(4), False),
        (torch.zeros(2, 5).bool(), torch.zeros(4).bool(), True),
        (torch.zeros(2, 5).long(), torch.zeros(4).long(), True),
        (torch.zeros(2, 4, 1), torch.zeros(4), False),
        (torch.zeros(2, 4), torch.zeros(4).double(), False),
        (torch.zeros(2, 4, 3), torch.zeros(4, 3).double(), False),
        (torch.zeros(2), torch.zeros(()), True),
    ],
)
def test_what_may_be_of_the_same_features(
    tensor: torch.Tensor, like: torch.Tensor, may: bool
) -> None:
    assert may_follow(tensor, tuple(like.shape), like.dtype) is may
