"""Edge cases of an honest run, by both protocols: what comes out is plain set intersection."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psi import IdsError
from tests.psi import ecdh_helpers, helpers
from tests.psi.helpers import exchange

BOTH = pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
MANY = [f"id{number}" for number in range(150)]
MEBIBYTE = 1 << 20
CASES: dict[str, tuple[list[str], list[str]]] = {
    "no ids at all": ([], []),
    "no ids here": ([], ["x"]),
    "no ids there": (["x"], []),
    "1 against 1, the same": (["x"], ["x"]),
    "1 against 1, another": (["x"], ["y"]),
    "0 match": (MANY[:50], MANY[50:]),
    "1 matches": (MANY[:51], MANY[50:]),
    "all match": (MANY, MANY[::-1]),
    "all of mine match": (MANY[40:60], MANY),
    "all of theirs match": (MANY, MANY[40:60]),
    "1 against many": (["id7"], MANY),
    "many against 1": (MANY, ["id7"]),
    "ids of 1 MB": (["a" * MEBIBYTE, "b", "c" * MEBIBYTE], ["c" * MEBIBYTE, "a" * (MEBIBYTE - 1)]),
    "the empty string": (["", "a"], ["b", ""]),
    "any Unicode": (
        ["\0", "\U0010ffff", "é", "ß", "\u0661"],
        ["e\u0301", "\U0010ffff", "ss", "\0", "1"],
    ),
    "spaces, case and zeros count": ([" a", "A", "007"], ["a", "a ", "7", "007"]),
}


def helper(protocol: str) -> Any:
    return ecdh_helpers if protocol == "ecdh" else helpers


def check(protocol: str, a: list[str], b: list[str], chunk_ids: int = 2048) -> None:
    side = helper(protocol)
    with side.signer(b, workers=2) as signing:
        signing.precompute()
        asking = side.requester(a, signing, workers=2, chunk_ids=chunk_ids)
        outcome = exchange(asking, signing)
        asking.close()
    assert outcome.intersection == [text for text in a if text in set(b)]
    assert outcome.matched == [text for text in b if text in set(a)]


@BOTH
@pytest.mark.parametrize(("a", "b"), CASES.values(), ids=CASES)
def test_edge(protocol: str, a: list[str], b: list[str]) -> None:
    check(protocol, a, b)


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_both_sides_shuffled_with_partial_overlap(protocol: str, seed: int) -> None:
    """Chunks of another size than slices, so that no mix-up of positions can pass."""
    order = random.Random(seed)
    a, b = order.sample(MANY, 90), order.sample(MANY, 110)
    assert 20 < len({*a} & {*b}) < 90
    check(protocol, a, b, chunk_ids=7)


few_ids = st.lists(st.text(max_size=6), unique=True, max_size=8)


@pytest.mark.slow
@BOTH
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(few_ids, few_ids, few_ids, st.randoms(), st.integers(1, 9))
def test_equals_plain_sets(
    protocol: str, mine: list[str], theirs: list[str], both: list[str], order: Any, chunk_ids: int
) -> None:
    a, b = sorted({*mine, *both}), sorted({*theirs, *both})
    order.shuffle(a)
    order.shuffle(b)
    check(protocol, a, b, chunk_ids)


@BOTH
@pytest.mark.parametrize("ids", [["a", "b", "a", "c", "b", "a"], ["\ud800"], [3], "abc"])
def test_unusable_ids(protocol: str, ids: Iterable[str]) -> None:
    side = helper(protocol)
    with pytest.raises(IdsError):
        side.signer(ids)
    with side.signer(["x"]) as signing, pytest.raises(IdsError):
        side.requester(ids, signing)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("many_ask", [True, False], ids=["1,000,000 ask 1", "1 asks 1,000,000"])
def test_one_against_a_million(many_ask: bool) -> None:
    million, one = [f"id{i}" for i in range(1_000_000)], ["id123456"]
    a, b = (million, one) if many_ask else (one, million)
    with (
        ecdh_helpers.signer(b, workers=None) as signing,
        ecdh_helpers.requester(a, signing, workers=None) as asking,
    ):
        signing.begin(asking.count)
        for chunk in asking.blinded():
            asking.unblind(signing.sign(chunk))
        for chunk in signing.tags():
            asking.add_tags(chunk)
        assert asking.intersection() == one
        (proof,) = asking.proofs(one)
        assert signing.matched(proof, last=True) == one
