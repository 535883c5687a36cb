"""Joins features whose length differs between batches, as in padded sequences.

Rows that are joined in one batch of a prediction are padded to the same length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from heterofed.data.signature import same_but_for_length
from heterofed.errors import FeatureError


def may_follow(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Return whether rows of a tensor can be joined with rows of this shape and dtype."""
    fits = same_but_for_length(tensor.shape[1:], shape, floating=dtype.is_floating_point)
    return fits and tensor.dtype == dtype


def tells_lengths(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether there are integers or bools, such as a mask or lengths, that show padding."""
    return any(not each.is_floating_point() for each in tensors.values())


def one_after_another(first: Tensor, then: Tensor, most: int, party: str) -> Tensor:
    """Join the rows of both tensors; shorter ones are padded at the end with zeros (False in a
    mask).

    Args:
        first: the first rows, of shape [rows, ...].
        then: the next rows, with the same number of dimensions and the same dtype.
        most: the most bytes that the result may have.
        party: the party that sent the rows, for errors.

    Raises:
        FeatureError: padding to a few long rows would make the result too large.
    """
    sizes = [max(pair) for pair in zip(first.shape[1:], then.shape[1:], strict=True)]
    rows, items = len(first) + len(then), 1
    for size in sizes:
        items *= size
    if rows * items * first.element_size() > most:
        raise FeatureError(
            f"{party} sent rows of very different lengths: padded to one they would have more than"
            f" {most} bytes; yield batches of the same rows as the Host, or of similar lengths",
            party=party,
        )
    return torch.cat([_padded(first, sizes), _padded(then, sizes)])


def _padded(tensor: Tensor, sizes: list[int]) -> Tensor:
    short: Any = [size - has for size, has in zip(sizes, tensor.shape[1:], strict=True)]
    if not any(short):
        return tensor
    return pad(tensor, [each for size in reversed(short) for each in (0, size)])
