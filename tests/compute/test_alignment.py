"""Ids in an order that all parties find by themselves: on every machine, in every version."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterofed.compute.alignment import (
    SortedIdSet,
    check_ids,
    check_places,
    check_split,
    default_split,
    keyed_digest,
    pack_parts,
    round_order,
    stream_seed,
    unpack_parts,
)
from heterofed.errors import EmptySplitError, IdError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
IDS = st.lists(TEXTS, unique=True, max_size=30)
LONE = "\ud800"
"""Half of a pair: a string in Python, and in no encoding."""


@given(IDS)
def test_a_sorted_set_is_a_set_in_one_order(ids: list[str]) -> None:
    made = SortedIdSet(ids)
    assert list(made) == sorted(ids)
    assert made == set(ids)
    assert repr(made) == f"<{len(ids)} ids>"


# -- what hooks return --------------------------------------------------------------------------


@given(IDS.filter(bool))
def test_ids_stay_in_their_order(ids: list[str]) -> None:
    assert check_ids(tuple(ids)) == ids


def test_no_id_is_an_error_that_names_the_hook() -> None:
    with pytest.raises(IdError, match="my_hook gave no id"):
        check_ids([], "my_hook")


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ("ab", None),
        ("aba", "1 id more than once (positions 0, 2);"),
        ("abcab", "2 ids more than once (positions 0, 1, 3, 4);"),
        ("aaaaaa", "1 id more than once (positions 0, 1, 2, 3, 4, 5);"),
        ("baaaaaaa", "1 id more than once (positions 1, 2, 3, 4, 5, 6, ...);"),
    ],
)
def test_repeated_ids_are_counted_and_placed(ids: str, says: str | None) -> None:
    if says is None:
        assert check_ids(list(ids)) == list(ids)
        return
    with pytest.raises(IdError) as refused:
        check_ids(list(ids), "hook")
    assert f"hook gave {says}" in str(refused.value)


def test_the_place_of_a_lone_surrogate_is_told() -> None:
    with pytest.raises(IdError, match="position 2 holds a lone surrogate"):
        check_ids(["a", "b", LONE, "c"])


def test_a_split_comes_back_sorted() -> None:
    assert check_split(({"b", "c", "a"}, ["e", "d"])) == (["a", "b", "c"], ["d", "e"])
    assert check_split([["a"], ["b"]]) == (["a"], ["b"])


@pytest.mark.parametrize("split", [None, (), (["a"],), (["a"], ["b"], ["c"]), {"a", "b"}, "ab"])
def test_a_split_is_a_pair(split: object) -> None:
    with pytest.raises(IdError, match=r"must return two sets, .* not a"):
        check_split(split)


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ((["a", "a"], ["b"]), "train ids more than once"),
        ((["a"], ["b", "b"]), "test ids more than once"),
        ((["a", LONE], ["b"]), "one of the train ids holds a lone surrogate"),
        ((["a"], [LONE]), "one of the test ids holds a lone surrogate"),
    ],
)
def test_ids_of_a_split_are_ids(split: object, says: str) -> None:
    with pytest.raises(IdError, match=says):
        check_split(split)


@pytest.mark.parametrize(("train", "test", "empty"), [("", "b", "train"), ("a", "", "test")])
def test_both_parts_of_a_split_have_ids(train: str, test: str, empty: str) -> None:
    with pytest.raises(EmptySplitError, match=f"left no {empty} ids"):
        check_split((list(train), list(test)))


# -- what all parties compute alike -------------------------------------------------------------


def test_the_default_split_is_the_same_everywhere() -> None:
    ids = [f"id-{number:02}" for number in range(20)]
    train, test = default_split(ids)
    assert sorted(test) == ["id-07", "id-14"]
    assert train == set(ids) - test


def test_the_default_split_tests_a_fifth() -> None:
    ids = [str(number) for number in range(20_000)]
    assert len(default_split(ids)[1]) / len(ids) == pytest.approx(0.2, abs=0.01)


@given(IDS, IDS)
def test_ids_stay_in_their_part_when_others_come(ids: list[str], others: list[str]) -> None:
    train, test = default_split(ids)
    more_train, more_test = default_split([*others, *ids])
    assert train <= more_train
    assert test <= more_test
    assert more_train | more_test == {*ids, *others}
    assert not more_train & more_test


def test_parts_are_two_bits_for_each_id() -> None:
    packed = pack_parts("abcdef", train="aef", test="bf")
    assert packed == bytes([0b00_00_10_01, 0b00_00_11_01])
    assert unpack_parts("abcdef", packed) == (["a", "e", "f"], ["b", "f"])


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["train", "test", ""])), max_size=12))
def test_parts_come_back_in_the_order_of_their_ids(told: list[tuple[str, str]]) -> None:
    parts = dict(told)
    train = [each for each, part in parts.items() if part == "train"]
    test = [each for each, part in parts.items() if part == "test"]
    packed = pack_parts(parts, reversed(train), reversed(test))
    assert len(packed) == -(-len(parts) // 4)
    assert unpack_parts(list(parts), packed) == (train, test)


def as_described(secret: bytes, purpose: str, ids: list[str]) -> bytes:
    """The digest as its docstring says, from the whole text at once."""
    text = purpose.encode() + b"\0"
    for start in range(0, len(ids), 4096):
        group = ids[start : start + 4096]
        for number in (len(group), *map(len, group)):
            text += number.to_bytes(8, "big")
        text += "".join(group).encode()
    return hmac.new(secret, text, hashlib.sha256).digest()


@pytest.mark.parametrize("count", [0, 1, 2, 4095, 4096, 4097, 8193])
def test_a_digest_is_what_it_says(count: int) -> None:
    ids = [f"é{number}" for number in range(count)]
    assert keyed_digest(b"secret", "split", ids) == as_described(b"secret", "split", ids)


@given(st.lists(TEXTS, max_size=5), st.lists(TEXTS, max_size=5))
def test_other_lists_have_other_digests(one: list[str], other: list[str]) -> None:
    assert (keyed_digest(b"k", "p", one) == keyed_digest(b"k", "p", other)) == (one == other)


def test_other_secrets_and_purposes_have_other_digests() -> None:
    made = {keyed_digest(key, purpose, ["a"]) for key in (b"k", b"l") for purpose in ("p", "q")}
    assert len(made) == 4


def test_the_order_of_a_round_is_the_same_everywhere() -> None:
    ids = list("abcdefgh")
    assert "".join(round_order(ids, seed=7, round_number=1, shuffle=True)) == "hfeadgcb"
    assert "".join(round_order(ids, seed=7, round_number=2, shuffle=True)) == "hcadgfbe"
    assert "".join(round_order(ids, seed=8, round_number=1, shuffle=True)) == "ehfagcdb"
    assert round_order(ids, seed=7, round_number=1, shuffle=False) == ids


@given(IDS, st.integers(0, 2**63 - 1), st.integers(1, 99), st.booleans())
def test_an_order_has_the_ids_of_before(ids: list[str], seed: int, number: int, new: bool) -> None:
    before = list(ids)
    order = round_order(ids, seed=seed, round_number=number, shuffle=new)
    assert Counter(order) == Counter(ids)
    assert ids == before, "the caller's own list stays"
    assert order is not ids


def test_seeds_of_streams_are_the_same_everywhere() -> None:
    assert (
        stream_seed(7, "shuffle", 1)
        == int(hashlib.sha256(b"(7, 'shuffle', 1)").hexdigest()[:16], 16) // 2
    )


@given(st.integers(0, 2**63 - 1), st.lists(st.one_of(TEXTS, st.integers()), max_size=3))
def test_seeds_of_streams_have_63_bits(seed: int, path: list[str | int]) -> None:
    assert 0 <= stream_seed(seed, *path) < 2**63
    assert stream_seed(seed, *path) != stream_seed(seed, *path, 0)


def test_places_of_a_split() -> None:
    train, test = check_places((np.array([0, 2], np.uint8), [1, 3]), 4)
    assert (train.tolist(), test.tolist()) == ([0, 2], [1, 3])
    assert train.dtype == test.dtype == np.int64


@pytest.mark.parametrize(
    "part",
    [[2, 1], [1, 1], [-1, 0], [0, 4], [0.5], ["a"], [[0]], [[0], [1, 2]], 3, None, {0, 1}],
)
def test_what_are_no_places(part: Any) -> None:
    for places in ((part, [1]), [[1], part]):
        with pytest.raises(IdError, match=r"split_places: the (train|test) positions"):
            check_places(places, 4)


@pytest.mark.parametrize("places", [3, "01", ([0],), ([0], [1], [2]), {0: [1], 1: [0]}])
def test_two_arrays_of_places_are_needed(places: Any) -> None:
    with pytest.raises(IdError, match="must return two arrays"):
        check_places(places, 4)


@pytest.mark.parametrize("places", [([], [1]), ([1], np.zeros(0, np.int64))])
def test_places_of_both_parts_are_needed(places: Any) -> None:
    with pytest.raises(EmptySplitError, match="split_places left no"):
        check_places(places, 4)
