"""Converts tensors of any shape to one vector per sample, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def vectors(tensor: Tensor) -> Tensor:
    """Return a tensor of shape [rows, ...] as one of shape [rows, d]."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor[:, None]


def joined(tensors: Mapping[str, Tensor]) -> Tensor:
    """Join all tensors of one batch to one row per sample, of shape [rows, d], in float32 or wider.

    A defence must see them together, because noise on one of two embeddings protects nothing that
    the other one reveals.
    """
    widest = torch.float32
    for each in tensors.values():
        widest = torch.promote_types(widest, each.dtype)
    parts = [vectors(each).to(widest) for each in tensors.values()]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def parted(rows: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Invert `joined`: return tensors with the names, shapes and dtypes of `like`."""
    widths = [vectors(each).shape[1] for each in like.values()]
    return {
        name: part.reshape(each.shape).to(each.dtype)
        for (name, each), part in zip(like.items(), torch.split(rows, widths, dim=1), strict=True)
    }
