"""Ids that are packed are those that were given, take little memory, and are compared at once."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest

from heterofed.compute.alignment import keyed_digest
from heterofed.compute.packed_ids import OrderedIds, PackedIds, kept

IDS = [f"id-{row}" for row in range(20_000)] + ["", "名字", "a\nb", "\U0001f600"]


def test_they_are_the_ids() -> None:
    packed = PackedIds(iter(IDS))
    assert len(packed) == len(IDS)
    assert list(packed) == IDS
    assert [packed[0], packed[-1], packed[19_999]] == [IDS[0], IDS[-1], IDS[19_999]]
    assert packed[8190:8195] == IDS[8190:8195]
    assert packed[::-7] == IDS[::-7]
    assert packed[5:2] == []
    with pytest.raises(IndexError):
        packed[len(IDS)]
    assert keyed_digest(b"key", "what", packed) == keyed_digest(b"key", "what", IDS)
    assert "id-1" not in repr(packed)


def test_some_of_them() -> None:
    packed = PackedIds(IDS)
    places = np.array([3, 20_001, 0])
    assert packed.pick(places) == ["id-3", "名字", "id-0"]
    assert list(packed.take(places)) == ["id-3", "名字", "id-0"]
    assert packed.take(np.arange(len(IDS))) is packed
    assert list(packed.take(np.arange(0))) == packed.pick(np.arange(0)) == list(PackedIds()) == []


@pytest.mark.parametrize("at_once", [7, 1000, 100_000])
def test_sorted(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterofed.compute.packed_ids._SORTED_AT_ONCE", at_once)
    some = [*IDS[:500], *IDS[-4:], "id-7"]
    random.Random(0).shuffle(some)
    assert PackedIds.in_order(iter(some)) == PackedIds(sorted(some))
    assert PackedIds.in_order([]) == PackedIds()


def test_they_are_equal_if_all_are() -> None:
    assert PackedIds(["a", "bc"]) == PackedIds(["a", "bc"])
    assert PackedIds(["a", "bc"]) != PackedIds(["ab", "c"])
    assert PackedIds(["a"]) != ["a"]
    assert len({PackedIds(["a"]), PackedIds(["a"])}) == 1


def test_an_id_takes_four_bytes_beside_its_own() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        packed = PackedIds(f"id-{row:07}" for row in range(20_000))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken / len(packed) < 10 + 4 + 0.5


def test_ids_in_another_order_are_no_copy() -> None:
    order = np.random.default_rng(0).permutation(len(IDS))
    ordered = OrderedIds(PackedIds(IDS), order)
    expected = [IDS[at] for at in order]
    assert list(ordered) == expected
    assert ordered[5:90] == expected[5:90]
    assert [ordered[0], ordered[-1]] == [expected[0], expected[-1]]
    assert kept(ordered) is ordered
    assert kept(IDS) == IDS
    assert kept(IDS) is not IDS


def test_ids_are_joined_dumped_and_loaded() -> None:
    both = PackedIds(IDS) + PackedIds(["x", "😀"])
    assert both == PackedIds([*IDS, "x", "😀"])
    assert PackedIds.load(both.dump()) == both
    assert PackedIds() + PackedIds() == PackedIds.load(PackedIds().dump()) == PackedIds()


def test_whether_they_ascend() -> None:
    assert PackedIds.in_order(IDS).is_ascending
    assert not PackedIds(["a", "a"]).is_ascending
    assert not PackedIds(["b", "a"]).is_ascending
