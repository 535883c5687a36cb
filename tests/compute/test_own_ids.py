"""Ids of a hook are packed as they come, and refused as in a list."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

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
