"""Features on a GPU: through page-locked memory, and back to the device they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from heterofed.compute.tensors import pack, unpack
from heterofed.protocol.plan import Coding
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows, run

pytestmark = [
    pytest.mark.gpu,
    # The first matrix product on autograd's own thread finds no context there and makes it.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning"),
]


@pytest.mark.parametrize("coding", get_args(Coding))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64])
def test_tensors_of_a_gpu_travel_as_those_of_a_cpu(coding: Coding, dtype: torch.dtype) -> None:
    before = {"a": torch.randn(33, 7).mul(9).to(dtype), "b": torch.randn(33, 3, 5).to(dtype)}
    plain_specs, plain = pack(before, coding)
    specs, buffers = pack({name: each.cuda() for name, each in before.items()}, coding)
    assert specs == plain_specs
    assert len(b"".join(buffers)) == len(b"".join(plain))
    payload = bytearray(b"".join(buffers))
    device = torch.device("cuda")
    there = unpack(specs, payload, "shop", device, coding)
    here = unpack(specs, payload, "shop", None, coding)
    for name, each in there.items():
        assert each.is_cuda
        assert each.dtype == dtype
        torch.testing.assert_close(each.cpu(), here[name])


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("steps", [0, 2])
def test_each_party_may_be_on_a_gpu(steps: int, tmp_path: Path) -> None:
    class OnGPU(TinyCollaborator):
        def make_feature_model(self) -> nn.Module:
            return super().make_feature_model().cuda()

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for start in range(0, len(train_ids), self.batch):
                ids = train_ids[start : start + self.batch]
                yield feature_model(rows(ids, 3, 7).cuda())

        def update_feature_model(self, features: Any, gradients: Any) -> None:
            assert features.is_cuda
            assert gradients.is_cuda
            super().update_feature_model(features, gradients)

    outcomes = run(TinyHost(tmp_path, max_staleness=steps), OnGPU(tmp_path))
    for each in outcomes:
        if isinstance(each, BaseException):
            raise each
