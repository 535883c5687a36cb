"""The ids that a party serves: checked, sorted and packed as they come."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from heterofed.compute.alignment import check_ids
from heterofed.errors import IdError
from heterofed.hetero_nn.serve.loaded import sorted_ids

IDS = [f"id-{row}" for row in range(300)] + ["名字", "a\nb"]


class Again:
    """Ids that are read again at each iteration, as those of a large table."""

    def __init__(self, ids: list[Any]) -> None:
        self._ids = ids

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ids)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterofed.compute.packed_ids._SORTED_AT_ONCE", 70)


@pytest.mark.parametrize("form", [list, iter, Again])
def test_any_form_of_ids(form: Any) -> None:
    ids = random.Random(0).sample(IDS, len(IDS))
    assert list(sorted_ids(form(ids))) == sorted(IDS)


@pytest.mark.parametrize("form", [list, iter, Again])
@pytest.mark.parametrize(
    "ids", [[], [*IDS, "id-7"], [*IDS, "\ud800"], [*IDS, 7], [*IDS, None], [*IDS, b"x"]]
)
def test_a_fault_is_told_as_everywhere(form: Any, ids: list[Any]) -> None:
    with pytest.raises(IdError) as expected:
        check_ids(ids)
    with pytest.raises(IdError) as found:
        sorted_ids(form(ids))
    assert str(found.value) == str(expected.value)
