"""Ids of a hook are packed as they come, and refused as in a list."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from heterofed.compute.alignment import check_ids
from heterofed.compute.own_ids import checked
from heterofed.errors import IdError


class Read:
    """Ids that are read anew by each iteration."""

    def __iter__(self) -> Iterator[str]:
        return (f"id-{row:08}" for row in range(100_000, 0, -1))


@pytest.mark.parametrize("of", [list, tuple, iter, pd.Series], ids=lambda each: each.__name__)
def test_they_stay_in_their_order(of: Any) -> None:
    packed, ordered = checked(of(["b", "a", "é"]))
    assert list(packed) == ["b", "a", "é"]
    assert list(ordered) == ["a", "b", "é"]


def test_they_are_never_strings_all_at_once() -> None:
    tracemalloc.start()
    try:
        packed, _ = checked(Read())
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(packed) == 100_000
    assert most < 100_000 * 150  # a list of so many strings and its sorted copy take 76 each


@pytest.mark.parametrize("of", [list, iter], ids=["list", "iterator"])
@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([], "no id"),
        (["a", "b", "a"], "positions 0, 2"),
        (["a", 3], "position 1 is a int"),
        (["a", None], "position 1 is missing"),
        (["a", "\ud800"], "position 1 holds a lone surrogate"),
    ],
)
def test_what_cannot_be_ids(ids: list[Any], told: str, of: Any) -> None:
    with pytest.raises(IdError, match=told):
        checked(of(ids))


IDS = [f"id-{row}" for row in range(300)] + ["名字", "a\nb"]


class Again:
    """Ids that are read again at each iteration, as those of a large table."""

    def __init__(self, ids: list[Any]) -> None:
        self._ids = ids

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ids)


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterofed.compute.packed_ids._SORTED_AT_ONCE", 70)


@pytest.mark.usefixtures("few_at_once")
@pytest.mark.parametrize("form", [list, iter, Again])
def test_any_form_of_ids(form: Any) -> None:
    ids = random.Random(0).sample(IDS, len(IDS))
    assert list(checked(form(ids))[1]) == sorted(IDS)


@pytest.mark.usefixtures("few_at_once")
@pytest.mark.parametrize("form", [list, iter, Again])
@pytest.mark.parametrize(
    "ids", [[], [*IDS, "id-7"], [*IDS, "\ud800"], [*IDS, 7], [*IDS, None], [*IDS, b"x"]]
)
def test_a_fault_is_told_as_everywhere(form: Any, ids: list[Any]) -> None:
    with pytest.raises(IdError) as expected:
        check_ids(ids)
    with pytest.raises(IdError) as found:
        checked(form(ids))
    assert str(found.value) == str(expected.value)
