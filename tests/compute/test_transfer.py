"""Copies between GPUs and main memory, where there is no GPU; see also tests/e2e/test_gpu.py."""

from __future__ import annotations

import pytest
import torch

from heterofed.compute.transfer import LateCheck, on_gpu, to_device, to_host
from heterofed.hetero_nn.train.recording import as_numbers, scalars_of
from heterofed.runs.frozen_values import thaw


def test_tensors_in_main_memory_are_not_copied() -> None:
    tensors = [torch.ones(3), torch.ones(2, dtype=torch.bfloat16)]
    assert [each.data_ptr() for each in to_host(tensors)] == [each.data_ptr() for each in tensors]
    for device in (None, torch.device("cpu")):
        assert to_device(tensors[0], device) is tensors[0]
    assert to_device(tensors[0], torch.device("meta")).device.type == "meta"


def test_tensors_in_main_memory_are_checked_at_once_and_not_late() -> None:
    assert not on_gpu({"": torch.ones(3)})
    assert not on_gpu({})
    assert LateCheck({"": torch.tensor([torch.nan])}).suspects() == []


def test_scalars_of_batches_become_numbers() -> None:
    recorded = [scalars_of({"loss": torch.tensor(0.5), "n": 3}, set()), scalars_of(None, set())]
    assert as_numbers(recorded) == [{"loss": 0.5, "n": 3.0}, {}]


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="needs a machine without this device")
def test_a_tensor_of_a_missing_gpu_is_thawed_in_main_memory() -> None:
    found = thaw(["tensor", torch.ones(2), torch.zeros(2), True, "cuda:7"])
    assert found.device.type == "cpu"
    assert found.grad.tolist() == [0, 0]
