"""Tensors of any shape as one vector per sample, and back. Knows tensors only."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def vectors(tensor: Tensor) -> Tensor:
    """[rows, d] of a tensor [rows, ...]."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor[:, None]


def joined(tensors: Mapping[str, Tensor]) -> Tensor:
    """All tensors of one batch as one row per sample, [rows, d], in float32 or wider.

    A defence sees them together: noise on one of two embeddings protects nothing that the other
    one tells.
    """
    widest = torch.float32
    for each in tensors.values():
        widest = torch.promote_types(widest, each.dtype)
    parts = [vectors(each).to(widest) for each in tensors.values()]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def parted(rows: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `joined`: tensors of the names, shapes and dtypes of `like`."""
    widths = [vectors(each).shape[1] for each in like.values()]
    return {
        name: part.reshape(each.shape).to(each.dtype)
        for (name, each), part in zip(like.items(), torch.split(rows, widths, dim=1), strict=True)
    }
