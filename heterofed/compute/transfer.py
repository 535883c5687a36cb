"""Copies tensors between GPUs and main memory, with one wait for all that is sent at once.

Copies go through page-locked memory, because only then can a copy run beside other work of the
GPU, and this thread need not wait for it. Tensors that come from peers are never waited for. What
is sent has to be waited for once; whether it is finite is found out by the same wait.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def on_gpu(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether all of these tensors are on a CUDA device."""
    return bool(tensors) and all(each.is_cuda for each in tensors.values())


def to_device(tensor: Tensor, device: torch.device | None) -> Tensor:
    """Return a tensor of main memory on a device, without waiting for the copy.

    Args:
        tensor: the tensor, which may be changed afterwards.
        device: the device; None leaves the tensor where it is.
    """
    if device is None or tensor.device == device:
        return tensor
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors in main memory, after one wait for all those that are on a GPU.

    The wait is for what was submitted to the current streams before. Tensors on the CPU are
    returned as they are.
    """
    copies = [_copying(each) for each in tensors]
    for device in {each.device for each in tensors if each.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return copies


def _copying(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor.cpu()
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


class LateCheck:
    """Finds out whether tensors on a GPU are finite, while the GPU goes on with other work.

    Tensors on the CPU, and those that are not of floating-point numbers, are not looked at.

    Args:
        tensors: the tensors by name, which nobody changes until `suspects` was called.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {
            name: each.detach()
            for name, each in tensors.items()
            if each.is_cuda and each.is_floating_point()
        }
        self._copied: torch.cuda.Event | None = None
        if self._tensors:
            sums = [each.sum(dtype=_wide(each)).double() for each in self._tensors.values()]
            self._sums = _copying(torch.stack([each.to(sums[0].device) for each in sums]))
            self._copied = torch.cuda.current_stream(sums[0].device).record_event()

    def suspects(self) -> list[str]:
        """Return the names of the tensors that hold NaN or infinity.

        It waits for what was submitted before this object was made, and for nothing later.
        """
        if self._copied is None:
            return []
        self._copied.synchronize()
        # A sum is finite only if every number is; one that is not may have overflowed.
        return [
            name
            for (name, tensor), total in zip(
                self._tensors.items(), self._sums.tolist(), strict=True
            )
            if not math.isfinite(total) and not bool(torch.isfinite(tensor).all())
        ]


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
