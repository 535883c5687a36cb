"""Sums over sites lose no digit, and each part is noise for the Host."""

from __future__ import annotations

import secrets
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterofed.errors import FeatureError, LocalProtocolError, RemoteProtocolError
from heterofed.privacy.mask_exact import (
    ITEM_BYTES,
    ExactMasker,
    added_up,
    decoded,
    encoded,
    uncovered,
)
from heterofed.privacy.mask_seal import key_of, opened, sealed

NAMES = ("north", "south", "west")
KEY = bytes(range(32))
FINITE = st.floats(-(2.0**40), 2.0**40, allow_nan=False)


def maskers(*names: str) -> dict[str, ExactMasker]:
    shared = {pair: secrets.token_bytes(32) for pair in combinations(names, 2)}
    return {
        name: ExactMasker(
            name,
            {
                other: shared.get((name, other)) or shared[other, name]
                for other in names
                if other != name
            },
        )
        for name in names
    }


def masked(parts: dict[str, Any], place: tuple[int, int] = (1, 0)) -> list[bytes]:
    made = maskers(*parts)
    return [
        made[name].mask(np.asarray(part, dtype=float), place, None if at else KEY)
        for at, (name, part) in enumerate(parts.items())
    ]


@given(st.lists(FINITE, min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_numbers_come_back_to_the_last_digit(numbers: list[float]) -> None:
    given_ = np.asarray(numbers)
    np.testing.assert_allclose(decoded(encoded(given_, 3)), given_, rtol=2**-52, atol=2**-80)


@given(st.lists(st.tuples(FINITE, FINITE, FINITE), min_size=1, max_size=9))
@settings(deadline=None, max_examples=30)
def test_the_sum_of_all_parts_is_the_sum(rows: list[tuple[float, float, float]]) -> None:
    columns = dict(zip(NAMES, zip(*rows, strict=True), strict=True))
    total = uncovered(added_up(masked(columns)), (1, 0), KEY)
    exact = [float(sum(int(each * 2**80) for each in row)) / 2**80 for row in rows]
    np.testing.assert_allclose(total, exact, rtol=2**-50, atol=2**-79)


def test_the_sum_does_not_depend_on_who_has_what() -> None:
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((3, 50)) * 10.0 ** rng.integers(-9, 9, (3, 50))
    shuffled = rng.permuted(parts, axis=0)
    one, other = [
        uncovered(added_up(masked(dict(zip(NAMES, each, strict=True)))), (1, 0), KEY)
        for each in (parts, shuffled)
    ]
    assert np.array_equal(one, other)


def test_parts_and_their_sum_are_noise_without_the_keys() -> None:
    parts = masked(dict.fromkeys(NAMES, np.ones(2000)))
    for each in (*parts, added_up(parts), added_up(parts[:2])):
        assert len(each) == 2000 * ITEM_BYTES
        counts = np.bincount(np.frombuffer(each, np.uint8), minlength=256)
        expected = len(each) / 256
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 7 * 22.6


def test_another_place_has_other_masks() -> None:
    made = maskers("north", "south")["south"]
    first, second = (made.mask(np.ones(9), (1, batch), None) for batch in (0, 1))
    assert first != second


def test_a_place_is_masked_only_once() -> None:
    made = maskers("north", "south")["north"]
    made.mask(np.ones(1), (2, 3), None)
    for place in ((2, 3), (2, 2), (1, 9)):
        with pytest.raises(LocalProtocolError, match="only once"):
            made.mask(np.ones(1), place, None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**46, -(2.0**47)])
def test_numbers_without_room_are_refused(value: float) -> None:
    with pytest.raises(FeatureError, match="no room"):
        encoded(np.asarray([1.0, value]), 2)


def test_a_key_is_opened_only_by_whom_it_was_sealed_for() -> None:
    secret, other = secrets.token_bytes(32), secrets.token_bytes(32)
    key = key_of([secret, other])
    assert key == key_of([other, secret]) != key_of([secret])
    assert len(key) == 32
    copy = sealed(key, secret, "north", "south")
    assert opened(copy, secret, "north", "south") == key
    for wrong in (
        (copy, secrets.token_bytes(32), "north", "south"),
        (copy, secret, "north", "west"),
        (bytes(48), secret, "north", "south"),
        (copy[:-1] + bytes([copy[-1] ^ 1]), secret, "north", "south"),
    ):
        with pytest.raises(RemoteProtocolError, match="did not seal"):
            opened(*wrong)
