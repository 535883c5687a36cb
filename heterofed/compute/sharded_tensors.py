"""Tells tensors that are divided among the processes of a party from whole ones, and converts them.

The other modules need not know how that works: outside of a launch with `shard_feature_model`, all
tensors are whole, and these functions return what they got.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor


class Shards(Protocol):
    """Converts the sharded tensors of one launch."""

    def whole(self, tensor: Any) -> Tensor:
        """Return a sharded tensor as a whole one, in main memory."""

    def placed(self, tensor: Tensor, like: Any) -> Tensor:
        """Return a whole tensor divided as another one is."""


class _Here(threading.local):
    shards: Shards | None = None


here = _Here()
"""The function that converts the sharded tensors of this thread's launch."""


def is_sharded(value: object) -> TypeGuard[Any]:
    """Return whether this process has only a part of a tensor."""
    module = sys.modules.get("torch.distributed.tensor")  # loaded if there is any
    return module is not None and isinstance(value, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor; that of a sharded one is collected in main memory."""
    if here.shards is None or not is_sharded(tensor):
        return tensor
    return here.shards.whole(tensor)


def placed(tensor: Tensor, like: object) -> Tensor:
    """Return a tensor divided among the processes as another one is, if that is sharded."""
    if here.shards is None or not is_sharded(like) or is_sharded(tensor):
        return tensor
    return here.shards.placed(tensor, like)


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process has, as one that shares its memory."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        part: Tensor = tensor.to_local()
    return part
