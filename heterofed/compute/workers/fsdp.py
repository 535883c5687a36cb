"""Divides the weights of a model among the ranks, by PyTorch's `fully_shard` (FSDP2).

Each rank calls this with the same model. A block is gathered when it computes, and is freed
afterwards; its gradients are added up over the ranks, and each rank keeps its part of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from heterofed.errors import ConfigError

Around = Callable[[], AbstractContextManager[object]]
"""Returns the block in which a collective operation runs."""

CONTAINERS = nn.ModuleList, nn.ModuleDict, nn.Sequential


class Whole(nn.Module):
    """The root for `fully_shard`, so that the method `forward` of the model itself may be replaced.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self._forward = model, model.forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the model returns."""
        return self._forward(*args, **kwargs)


def meshed(kind: str, ranks: int, timeout: timedelta) -> DeviceMesh:
    """Connect all ranks for collective operations.

    Args:
        kind: the kind of device that computes.
        ranks: the number of ranks.
        timeout: the longest time that one operation may take.
    """
    group: Any = dist.new_group(backend="nccl" if kind == "cuda" else "gloo", timeout=timeout)
    return DeviceMesh.from_group(group, kind, mesh=list(range(ranks)))


def shard(model: nn.Module, mesh: DeviceMesh, around: Around) -> nn.Module:
    """Divide the weights of a model, and return what computes it."""
    root = Whole(model)
    for each in [*blocks_of(model), root]:
        fully_shard(each, mesh=mesh, reshard_after_forward=True)
    for each in root.modules():
        if isinstance(each, FSDPModule):
            gather: Any = _AllGather(around)
            reduce: Any = _ReduceScatter(around)
            each.set_custom_all_gather(gather)
            each.set_custom_reduce_scatter(reduce)
            # The loss is one for all rows, so gradients of parts add up to that of the whole.
            each.set_gradient_divide_factor(1.0)
            each.set_force_sum_reduction_for_comms(True)
    return root


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the parts of a model that are gathered one after another: the items of its lists.

    Weights outside of them, and weights that two of them share, are gathered with the model.
    """
    users: dict[int, int] = {}
    for module in model.modules():
        for each in module.parameters(recurse=False):
            users[id(each)] = users.get(id(each), 0) + 1
    found = {id(each): each for each in _items(model) if next(each.parameters(), None) is not None}
    return [each for each in found.values() if not _shares(each, users)]


def _items(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, CONTAINERS) and not isinstance(child, CONTAINERS[:2]):
            yield child
        else:
            yield from _items(child)


def _shares(block: nn.Module, users: dict[int, int]) -> bool:
    own: dict[int, int] = {}
    for module in block.modules():
        for each in module.parameters(recurse=False):
            own[id(each)] = own.get(id(each), 0) + 1
    return any(users[key] > count for key, count in own.items())


def check_shardable(model: nn.Module) -> None:
    """Refuse a model whose weights cannot be divided.

    Raises:
        ConfigError: the message says why, and what to do.
    """
    for name, each in model.named_parameters():
        if nn.parameter.is_lazy(each):
            raise ConfigError(
                f"shard_feature_model: the weight {name} has no shape yet; give the sizes of"
                " layers, and no Lazy modules"
            )
        if not each.dim():
            raise ConfigError(
                f"shard_feature_model: the weight {name} is a single number without a dimension;"
                " give it the shape [1]"
            )


@contextmanager
def without_weights(model: nn.Module) -> Iterator[None]:
    """Replace the weights of a model by ones without memory, within the block."""
    empty: dict[int, nn.Parameter] = {}
    held = [
        (module, name, each)
        for module in model.modules()
        for name, each in module.named_parameters(recurse=False, remove_duplicate=False)
    ]
    try:
        for module, name, each in held:
            like = nn.Parameter(torch.empty_like(each, device="meta"), each.requires_grad)
            setattr(module, name, empty.setdefault(id(each), like))
        yield
    finally:
        for module, name, each in held:
            setattr(module, name, each)


def parts_of(tensor: Tensor, ranks: int, dim: int = 0) -> list[Tensor]:
    """Divide a tensor as `fully_shard` does; the last parts may be empty."""
    parts = list(tensor.detach().chunk(ranks, dim))
    empty = tensor.detach().narrow(dim, 0, 0)
    return parts + [empty] * (ranks - len(parts))


def fill(model: nn.Module, device: torch.device, weights: Sequence[Tensor]) -> None:
    """Give memory to the weights of a model that was sharded without, and fill in this rank's.

    Args:
        model: the model, whose buffers have their values.
        device: the device of this rank.
        weights: this rank's part of each weight.
    """
    buffers = [each.clone() for each in model.buffers()]
    model.to_empty(device=device)
    with torch.no_grad():
        for here, given in zip(model.buffers(), buffers, strict=True):
            here.copy_(given)
        for weight, part in zip(model.parameters(), weights, strict=True):
            weight.to_local().copy_(part)  # type: ignore[attr-defined]


class _Allocating:
    def __init__(self, around: Around) -> None:
        self._around = around

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _AllGather(_Allocating):
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False
    ) -> None:
        del async_op  # it is waited for here, where its errors get a name
        with self._around():
            dist.all_gather_into_tensor(output_tensor, input_tensor, group)


class _ReduceScatter(_Allocating):
    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: Any,
        op: Any,
        async_op: bool = False,
    ) -> None:
        del async_op
        with self._around():
            dist.reduce_scatter_tensor(output_tensor, input_tensor, op, group)
