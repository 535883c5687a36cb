"""Tensors that travel rounded: how far off, in how many bytes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from heterofed import ConfigError
from heterofed.compute.tensors import dtype_name, pack, unpack
from heterofed.errors import NonFiniteError, RemoteProtocolError
from heterofed.protocol.messages import ITEM_BYTES
from heterofed.protocol.plan import Coding, Plan
from heterofed.protocol.states import State
from tests.e2e.tiny import TinyCollaborator, TinyHost, run
from tests.protocol.link import PREPARED, Link, begin_train, features, gradients, hello, welcome
from tests.protocol.link import tensor as spec

CODINGS: tuple[Coding, ...] = get_args(Coding)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def there_and_back(tensors: dict[str, Tensor], coding: Coding) -> dict[str, Tensor]:
    specs, buffers = pack(tensors, coding, "shop")
    payload = bytearray(b"".join(buffers))
    assert len(payload) == sum(each.coded_bytes(coding) for each in specs)
    return unpack(specs, payload, "shop", coding=coding)


@given(
    rows=st.integers(0, 5),
    wide=st.integers(0, 7),
    size=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e4]),
    dtype=st.sampled_from(FLOATS),
    coding=st.sampled_from(CODINGS),
    seed=st.integers(0, 99),
)
def test_values_come_back_rounded_and_no_further_off(
    rows: int, wide: int, size: float, dtype: torch.dtype, coding: Coding, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    before = (torch.randn(rows, wide, generator=draw) * size).to(dtype)
    after = there_and_back({"a": before}, coding)["a"]
    assert (after.dtype, after.shape) == (dtype, before.shape)
    if before.numel() == 0:
        return
    biggest = before.double().abs().amax(dim=1, keepdim=True)
    own = torch.finfo(dtype).eps * biggest + torch.finfo(dtype).smallest_normal
    allowed = {
        "none": torch.zeros_like(biggest),
        "fp16": biggest * 2**-11 + 2**-25,
        "bf16": biggest * 2**-8,
        "int8": biggest / 254 * 1.001 + own,
    }[coding]
    assert bool(((after.double() - before.double()).abs() <= allowed).all())


def test_every_row_has_a_scale_of_its_own() -> None:
    before = torch.tensor([[1e-6, -2e-6], [100.0, 50.0], [0.0, 0.0]])
    after = there_and_back({"": before}, "int8")[""]
    torch.testing.assert_close(after, before, rtol=0.01, atol=0)


def test_int8_takes_a_byte_an_item_and_four_a_row() -> None:
    specs, buffers = pack({"": torch.randn(128, 10)}, "int8")
    assert sum(each.nbytes for each in buffers) == 128 * 10 + 4 * 128
    assert specs[0].shape == (128, 10)


def test_what_would_not_get_smaller_travels_as_it_is() -> None:
    tensors = {
        "labels": torch.arange(5),
        "flags": torch.tensor([True, False, True, True, False]),
        "narrow": torch.randn(5),  # a scale for each item would be more
        "half": torch.randn(5, 3).half(),
    }
    specs, buffers = pack(tensors, "int8")
    sizes = [each.nbytes for each in buffers]
    assert sizes[:3] == [40, 5, 20]
    again = there_and_back(tensors, "int8")
    assert all(torch.equal(again[name], tensors[name]) for name in ("labels", "flags", "narrow"))
    assert torch.equal(there_and_back(tensors, "bf16")["half"], tensors["half"])
    assert len(specs) == 4


@pytest.mark.parametrize(
    ("coding", "value", "dtype"),
    [
        ("fp16", 1e5, torch.float32),
        ("bf16", 1e300, torch.float64),
        ("int8", 1e300, torch.float64),
    ],
)
def test_values_too_large_are_refused_before_they_travel(
    coding: Coding, value: float, dtype: torch.dtype
) -> None:
    with pytest.raises(NonFiniteError, match=f"too large to be sent as {coding}"):
        pack({"": torch.full((2, 8), value, dtype=dtype)}, coding, "shop")


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0])
def test_hostile_scales_are_refused(scale: float) -> None:
    specs, buffers = pack({"": torch.randn(2, 8)}, "int8")
    payload = bytearray(b"".join(buffers))
    payload[4:8] = np.float32(scale).tobytes()
    with pytest.raises(RemoteProtocolError, match="shop sent a compressed tensor whose scales"):
        unpack(specs, payload, "shop", coding="int8")


def test_hostile_items_are_refused() -> None:
    specs, buffers = pack({"": torch.randn(2, 8)}, "int8")
    payload = bytearray(b"".join(buffers))
    payload[-1] = 0x80
    with pytest.raises(RemoteProtocolError, match="items outside of -127 to 127"):
        unpack(specs, payload, "shop", coding="int8")


@pytest.mark.parametrize("coding", CODINGS)
def test_sizes_are_judged_by_the_coding_before_anything_is_allocated(coding: Coding) -> None:
    plan = Plan(
        host="bank",
        collaborators=("shop",),
        compress_features=coding,
        compress_gradients="int8",
        max_batch_bytes=2 * 16 * 4,
    )
    link = Link(hello(), welcome(plan), *PREPARED[2:], begin_train(1, 0))
    shape = spec(2, 16)
    size = {"none": 128, "fp16": 64, "bf16": 64, "int8": 40}[coding]
    for other in (size - 1, size + 1, *({128, 64, 40} - {size})):
        assert "shapes that do not" in link.refuses(features(0, shape)._replace(size=other))
    large = features(0, spec(2, 17))
    grown = {"none": 136, "fp16": 68, "bf16": 68, "int8": 42}[coding]
    assert "max_batch_bytes" in link.refuses(large._replace(size=grown)), "counted as unpacked"
    link.say(features(0, shape)._replace(size=size), gradients(0, shape)._replace(size=40))
    assert link.state is State.TRAIN


def test_dtype_names_cover_all_that_may_travel() -> None:
    assert {dtype_name(torch.empty(0, dtype=each)) for each in FLOATS} < set(ITEM_BYTES)


# -- in a run ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_each_direction_is_compressed_on_its_own(tmp_path: Path) -> None:
    sizes = {}
    for name, settings in {
        "plain": {},
        "features": {"compress_features": "fp16"},
        "gradients": {"compress_gradients": "bf16"},
        "both": {"compress_features": "int8", "compress_gradients": "int8"},
    }.items():
        outcomes = run(
            TinyHost(tmp_path / name, **settings), TinyCollaborator(tmp_path / name), task="tiny"
        )
        for each in outcomes:
            if isinstance(each, BaseException):
                raise each
        cost = outcomes[0].phases["train"]
        sizes[name] = (cost.bytes_received, cost.bytes_sent)
    assert sizes["features"][0] < sizes["plain"][0]
    assert abs(sizes["features"][1] - sizes["plain"][1]) < 8
    assert abs(sizes["gradients"][0] - sizes["plain"][0]) < 64  # `busy` differs
    assert sizes["gradients"][1] < sizes["plain"][1]


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_gradients_are_rounded_and_nothing_else(tmp_path: Path) -> None:
    seen: dict[str, list[Tensor]] = {}

    class Keeps(TinyCollaborator):
        def update_feature_model(self, features: Any, gradients: Any) -> None:
            seen.setdefault(self.kind, []).append(gradients.clone())

        kind = ""

    for kind in ("plain", "bf16"):
        Keeps.kind = kind
        settings = {} if kind == "plain" else {"compress_gradients": "bf16"}
        run(TinyHost(tmp_path / kind, max_rounds=1, **settings), Keeps(tmp_path / kind))
    first, rounded = seen["plain"][0], seen["bf16"][0]
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, first.to(torch.bfloat16).float())
    assert not torch.equal(rounded, first)


@pytest.mark.parametrize("name", ["compress_features", "compress_gradients"])
@pytest.mark.parametrize("coding", ["zip", "FP16", 8, True, ""])
def test_unknown_compression_is_refused_before_anything_happens(
    name: str, coding: Any, tmp_path: Path
) -> None:
    host = TinyHost(tmp_path / "results", **{name: coding})
    with pytest.raises(ConfigError, match=f'{name}=.*"fp16", "bf16", "int8"'):
        host.launch_task("tiny")
    assert not (tmp_path / "results").exists()


# -- agreed batches ---------------------------------------------------------------------------


@pytest.mark.usefixtures("home")
def test_batches_are_what_the_host_says(tmp_path: Path) -> None:
    seen: dict[str, list[list[str]]] = {"alice": [], "bob": []}

    class AgreedHost(TinyHost):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            for ids in self.batches(train_ids):
                seen["alice"].append(ids)
                yield from super().iterate_train_feature(feature_model, ids)

    class Agreed(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            assert self.batch_size == 7
            for ids in self.batches(train_ids):
                seen["bob"].append(ids)
                yield from super().iterate_train_feature(feature_model, ids)

    host = AgreedHost(tmp_path, batch_size=7, max_rounds=1)
    outcomes = run(host, Agreed(tmp_path))
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    assert seen["alice"] == seen["bob"]
    train = [batch for batch in seen["alice"] if set(batch) <= set(host.train_ids)]
    assert [each for batch in train for each in batch] == host.train_ids
    assert {len(batch) for batch in train[:-1]} == {7}


@pytest.mark.usefixtures("home")
def test_batches_without_a_size_say_what_to_do(tmp_path: Path) -> None:
    class Asks(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            assert self.batch_size is None
            yield from self.batches(train_ids)

    _, error = run(TinyHost(tmp_path), Asks(tmp_path))
    assert isinstance(error, ConfigError)
    assert "give one to the Host" in str(error)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "128", 2**31 + 1])
def test_impossible_batch_sizes_are_refused(size: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size="):
        TinyHost(tmp_path / "results", batch_size=size).launch_task("tiny")
