"""Where tensors of other parties come to live; devices that need no hardware stand for GPUs."""

from __future__ import annotations

import torch
from torch import nn

from heterofed.compute.autograd import device_of, gradients_like
from heterofed.compute.tensors import pack, unpack

META, CPU = torch.device("meta"), torch.device("cpu")


def test_features_arrive_on_the_device_of_the_hosts_own_features() -> None:
    model = nn.Linear(2, 2)
    assert device_of({"": torch.empty(3, 2, device=META)}, model) == META


def test_features_arrive_on_the_device_of_the_infer_model_of_a_label_only_host() -> None:
    assert device_of({}, nn.Linear(2, 2, device=META)) == META
    assert device_of({}, nn.Identity()) is None


def test_received_tensors_are_put_on_that_device() -> None:
    specs, buffers = pack({"a": torch.arange(6.0).reshape(3, 2)})
    arrived = unpack(specs, bytearray(b"".join(buffers)), "shop", META)
    assert arrived["a"].device == META
    assert arrived["a"].shape == (3, 2)


def test_gradients_return_on_the_device_of_the_features_they_belong_to() -> None:
    features = {"": torch.empty(3, 2, device=META)}
    assert gradients_like("tensor", features, {"": torch.ones(3, 2)}).device == META
