"""Tensors to bytes and back: what may travel, in which bytes, and what either side refuses."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heterofed.compute.tensors import (
    check_finite,
    dtype_name,
    is_finite,
    named,
    pack,
    restore,
    takes_gradient,
    unpack,
)
from heterofed.errors import FeatureError, NonFiniteError, RemoteProtocolError
from heterofed.protocol.messages import GRADIENT_DTYPES, ITEM_BYTES, TensorSpec
from heterofed.protocol.plan import Coding

ROWS = torch.zeros(3)
DTYPES = {name: getattr(torch, name) for name in ITEM_BYTES}
FLOATS = {name: DTYPES[name] for name in sorted(GRADIENT_DTYPES)}


def sample(name: str, *shape: int) -> Tensor:
    """Different numbers of a dtype."""
    numbers = torch.arange(math.prod(shape)).reshape(shape) * 3 - 7
    return (numbers % 2 == 0) if name == "bool" else numbers.to(DTYPES[name])


def received(tensors: dict[str, Tensor], **how: Any) -> dict[str, Tensor]:
    specs, buffers = pack(tensors, **how)
    return unpack(specs, bytearray(b"".join(buffers)), "shop", **how)


# -- what a hook yields --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "layout", "names"),
    [
        (ROWS, "tensor", [""]),
        ((ROWS,), "tuple", ["0"]),
        ([ROWS, ROWS + 1], "tuple", ["0", "1"]),
        ({"b": ROWS, "a": ROWS + 1}, "dict", ["b", "a"]),
    ],
    ids=["tensor", "tuple", "list", "dict"],
)
def test_every_form_is_named_and_restored(features: Any, layout: str, names: list[str]) -> None:
    found, tensors = named(features, "hook")
    assert (found, list(tensors)) == (layout, names)
    again = restore(found, tensors)
    if layout == "tensor":
        assert again is features
    elif layout == "tuple":
        assert isinstance(again, tuple)
        assert all(one is other for one, other in zip(again, features, strict=True))
    else:
        assert again == features
        assert again is not features


def test_a_single_tensor_that_never_was_one_stays_what_it_is() -> None:
    assert restore("dict", {"": ROWS}) == {"": ROWS}
    assert restore("tensor", {"a": ROWS, "b": ROWS}) == {"a": ROWS, "b": ROWS}


@pytest.mark.parametrize("count", [0, 257])
def test_no_tensors_or_too_many(count: int) -> None:
    with pytest.raises(FeatureError, match=f"hook yielded {count} tensors; 1 to 256"):
        named([ROWS] * count, "hook")


def test_limits_themselves_may_travel() -> None:
    named([ROWS] * 256, "hook")
    named({"é" * 128: ROWS, "": ROWS}, "hook")
    named(torch.zeros([1] * 16), "hook")
    named(torch.zeros(0, 3), "hook")


@pytest.mark.parametrize("name", ["a" * 129, "a\n", "\x00", 3, None, b"a"])
def test_names_are_short_and_plain(name: object) -> None:
    with pytest.raises(FeatureError, match="keys are not short, plain strings"):
        named({name: ROWS}, "hook")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.zeros(3), "of type ndarray; yield tensors$"),
        ([1.0], "of type list; yield tensors$"),
        ([], "of type list; yield tensors$"),
        ("id-1", "of type str; yield tensors$"),
        (["id-1"], r"of type list; put ids into Batch\(features, ids=...\)"),
        (("id-1", 3), "of type tuple; put ids into Batch"),
        ((3, "id-1"), "of type tuple; yield tensors$"),
        ({"id-1": 1}, "of type dict; yield tensors$"),
    ],
)
def test_other_things_than_tensors(value: object, says: str) -> None:
    with pytest.raises(
        FeatureError, match=f"hook, tensor '1' is {'.*' * says.startswith('of')}{says}"
    ):
        named((ROWS, value), "hook")


@pytest.mark.parametrize("features", ["abc", 3, None, np.zeros(3), {1, 2}])
def test_other_things_than_features(features: object) -> None:
    with pytest.raises(FeatureError, match=f"yielded a {type(features).__name__} as features"):
        named(features, "hook")


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.zeros(3, dtype=torch.complex64), "hook: dtype torch.complex64 cannot be sent"),
        (torch.zeros(3, 3).to_sparse(), "hook: a sparse tensor cannot be sent"),
        (torch.tensor(1.0), "hook: 0 dimensions; yield 1 to 16, of which the first is the rows"),
        (torch.zeros([1] * 17), "hook: 17 dimensions"),
    ],
)
def test_tensors_that_cannot_travel(tensor: Tensor, says: str) -> None:
    with pytest.raises(FeatureError, match=says):
        named(tensor, "hook")
    with pytest.raises(FeatureError, match=says.replace("hook", "hook, tensor 'a'")):
        named({"a": tensor}, "hook")


def test_tensors_have_as_many_rows() -> None:
    with pytest.raises(FeatureError, match=r"unequal row counts \[2, 3\]"):
        named((ROWS, torch.zeros(2, 3), ROWS), "hook")


@pytest.mark.parametrize("name", ITEM_BYTES)
def test_dtypes_by_name(name: str) -> None:
    tensor = sample(name, 3)
    assert dtype_name(tensor) == name
    assert takes_gradient(tensor) == tensor.is_floating_point()
    assert tensor.element_size() == ITEM_BYTES[name]


# -- NaN and infinity ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", FLOATS)
def test_one_number_that_is_none_is_found_wherever_it_is(name: str, bad: float) -> None:
    for at in ((0, 0), (1, 2), (3, 4)):
        tensor = sample(name, 4, 5)
        assert is_finite(tensor)
        tensor[at] = bad
        assert not is_finite(tensor)
        with pytest.raises(NonFiniteError, match="features 'a' at shop holds NaN") as refused:
            check_finite({"ok": ROWS, "a": tensor}, "features", "shop")
        assert refused.value.party == "shop"


@pytest.mark.parametrize("name", FLOATS)
def test_large_numbers_are_finite_though_their_sum_is_not(name: str) -> None:
    most = torch.finfo(DTYPES[name]).max
    assert is_finite(torch.full((9,), most, dtype=DTYPES[name]))
    assert is_finite(torch.full((3, 3), -most, dtype=DTYPES[name]).t())


@pytest.mark.parametrize("name", FLOATS)
def test_two_infinities_are_not_finite_though_they_add_up_to_none(name: str) -> None:
    assert not is_finite(torch.tensor([math.inf, -math.inf], dtype=DTYPES[name]))


def test_a_large_tensor_of_halves_is_looked_through_to_its_end() -> None:
    many = torch.zeros((1 << 20) + 2, dtype=torch.float16)
    assert is_finite(many)
    many[-1] = math.nan
    assert not is_finite(many)


def test_no_numbers_are_finite_and_integers_are_not_looked_at() -> None:
    assert is_finite(torch.zeros(0, 3))
    check_finite({"a": torch.tensor([2**62, -1]), "b": torch.tensor([True])}, "features", "shop")
    with pytest.raises(NonFiniteError, match="gradient at shop holds"):
        check_finite({"": torch.tensor([math.nan])}, "gradient", "shop")


# -- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(ITEM_BYTES) - {"bfloat16"}))
def test_bytes_are_row_major_and_little_endian(name: str) -> None:
    for tensor in (sample(name, 2, 3), sample(name, 3, 2).t(), sample(name, 4, 3)[::2]):
        specs, (data,) = pack({"a": tensor})
        assert specs == (TensorSpec("a", name, tuple(tensor.shape)),)  # type: ignore[arg-type]
        numpy = tensor.numpy()
        expected = np.ascontiguousarray(numpy).astype(numpy.dtype.newbyteorder("<")).tobytes()
        assert bytes(data) == expected
    assert pack({"b": torch.tensor([1.0, -2.0]).bfloat16()})[1][0].hex() == "803f00c0"


@pytest.mark.parametrize("name", ITEM_BYTES)
def test_tensors_come_back_at_any_place_of_a_payload(name: str) -> None:
    """Behind an odd number of bytes, items are not where torch wants them."""
    before = {"odd": sample("bool", 3), "": sample(name, 3, 2), "none": sample(name, 0, 2)}
    after = received(before)
    assert list(after) == list(before)
    for key, tensor in before.items():
        assert (after[key].dtype, after[key].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(after[key], tensor)


def test_memory_is_not_copied_where_it_need_not_be() -> None:
    tensor = torch.zeros(2, 3, requires_grad=True)
    specs, (data,) = pack({"": tensor})
    payload = bytearray(data)
    got = unpack(specs, payload, "shop")[""]
    assert not got.requires_grad
    with torch.no_grad():
        tensor[0, 1] = 1.0
    assert bytes(data[4:8]) == np.float32(1).tobytes()
    payload[4:8] = np.float32(2).tobytes()
    assert got[0, 1] == 2.0


def test_tensors_arrive_where_they_are_wanted() -> None:
    specs, buffers = pack({"a": sample("float32", 2), "b": sample("float32", 0)})
    payload = bytearray(b"".join(buffers))
    for device in (None, torch.device("cpu"), torch.device("meta")):
        made = unpack(specs, payload, "shop", device)
        wanted = "cpu" if device is None else device.type
        assert {each.device.type for each in made.values()} == {wanted}


@pytest.mark.parametrize("coding", get_args(Coding))
@pytest.mark.parametrize("off", [-1, 1])
def test_a_payload_of_another_length_is_refused(coding: Coding, off: int) -> None:
    specs, buffers = pack({"": sample("float32", 2, 9)}, coding)
    payload = bytearray(b"".join(buffers) + b"\0")[: sum(map(len, buffers)) + off]
    with pytest.raises(RemoteProtocolError, match="shop sent tensors of other sizes") as refused:
        unpack(specs, payload, "shop", coding=coding)
    assert refused.value.party == "shop"


@pytest.mark.parametrize("item", [2, 255])
def test_a_boolean_is_0_or_1(item: int) -> None:
    specs = (TensorSpec("", "bool", (3,)),)
    assert unpack(specs, bytearray([0, 1, 1]), "shop")[""].tolist() == [False, True, True]
    with pytest.raises(RemoteProtocolError, match="shop sent a boolean tensor with items other"):
        unpack(specs, bytearray([0, 1, item]), "shop")


# -- rounded -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("coding", "half"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_halves_are_what_torch_makes_of_the_numbers(coding: Coding, half: Any, name: str) -> None:
    tensor = torch.randn(3, 2, 4).to(DTYPES[name])
    _, (data,) = pack({"": tensor}, coding)
    assert bytes(data) == tensor.to(half).view(torch.uint8).numpy().tobytes()
    after = received({"odd": sample("bool", 1), "": tensor}, coding=coding)[""]
    assert torch.equal(after, tensor.to(half).to(DTYPES[name]))


def test_int8_is_a_scale_for_each_row_and_then_the_items() -> None:
    rows = torch.tensor([[1.27, -0.01, 0.0, 0.6349, 0, 0], [-254.0, 127.0, 2.0, 4.0, 0, 1.1]])
    _, parts = pack({"": rows}, "int8")
    scales = np.frombuffer(parts[0], "<f4")
    assert scales.tolist() == pytest.approx([0.01, 2.0])
    items = np.frombuffer(parts[1], np.int8).reshape(2, -1)
    assert items.tolist() == [[127, -1, 0, 63, 0, 0], [-127, 64, 1, 2, 0, 1]]
    assert len(parts) == 2
    whole = torch.full((3, 8), 127.0)  # its scales have a byte that would be -128
    assert torch.equal(received({"": whole}, coding="int8")[""], whole)


def test_rows_too_small_to_be_told_from_zeros_are_zeros() -> None:
    tiny = torch.finfo(torch.float32).tiny
    rows = torch.tensor([0.0, 1, 126, 127, 128])[:, None] * tiny * torch.ones(8)
    _, parts = pack({"": rows}, "int8")
    scales = np.frombuffer(parts[0], "<f4")
    assert scales[:3].tolist() == [0, 0, 0]
    assert min(scales[3:]) >= tiny
    after = received({"": rows}, coding="int8")[""]
    assert torch.equal(after[:3], torch.zeros(3, 8))
    assert torch.allclose(after[3:], rows[3:], rtol=0.01, atol=0)


@settings(max_examples=25)
@given(
    st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=8, max_size=8),
    st.sampled_from(["float32", "float64"]),
)
def test_items_of_int8_are_the_nearest_steps(numbers: list[float], name: str) -> None:
    tensor = torch.tensor([numbers], dtype=DTYPES[name])
    _, parts = pack({"": tensor}, "int8")
    scale = float(np.frombuffer(parts[0], "<f4")[0])
    items = np.frombuffer(parts[1], np.int8)
    assert scale == pytest.approx(max(map(abs, numbers)) / 127, rel=1e-6, abs=2e-38)
    if scale:
        assert np.abs(items * scale - np.array(numbers)).max() <= scale * 0.5001
    after = received({"": tensor}, coding="int8")[""]
    torch.testing.assert_close(
        after[0].double(), torch.from_numpy(items * scale), rtol=1e-6, atol=0
    )


def packed_rows() -> tuple[tuple[TensorSpec, ...], bytearray]:
    specs, buffers = pack({"": torch.ones(2, 8)}, "int8")
    return specs, bytearray(b"".join(buffers))


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -1e-9])
def test_scales_are_numbers_from_0_on(scale: float, row: int) -> None:
    specs, payload = packed_rows()
    payload[4 * row : 4 * row + 4] = np.float32(scale).tobytes()
    with pytest.raises(RemoteProtocolError, match="shop sent a compressed tensor whose scales"):
        unpack(specs, payload, "shop", coding="int8")
    payload[4 * row : 4 * row + 4] = np.float32(0).tobytes()
    assert unpack(specs, payload, "shop", coding="int8")[""][row].tolist() == [0.0] * 8


@pytest.mark.parametrize("at", [0, 8, 15])
def test_items_are_from_minus_127_to_127(at: int) -> None:
    specs, payload = packed_rows()
    payload[8 + at] = 0x81
    after = unpack(specs, payload, "shop", coding="int8")[""]
    assert after.reshape(-1)[at].item() == pytest.approx(-1.0)
    payload[8 + at] = 0x80
    with pytest.raises(RemoteProtocolError, match="items outside of -127 to 127"):
        unpack(specs, payload, "shop", coding="int8")


@pytest.mark.parametrize(
    ("coding", "most"), [("fp16", 65504.0), ("bf16", 3.38e38), ("int8", 3.4e38)]
)
def test_values_up_to_the_most_of_a_coding_travel(coding: Coding, most: float) -> None:
    fits = torch.full((2, 8), most, dtype=torch.float64)
    received({"": fits}, coding=coding)
    with pytest.raises(
        NonFiniteError, match=f"shop holds .* too large to be sent as {coding}"
    ) as no:
        pack({"": fits * 1.1}, coding, "shop")
    assert no.value.party == "shop"
