"""Two parties learn how many ids they share; the lists that travel say nothing of their order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import psi
from psi.cardinality import LEAST_IDS, CountAnswerer, CountAsker, count_common
from psi.ecdh.group import POINT_BYTES, find_group
from psi.ecdh.oprf import make_key

DOMAIN = b"task"
KEYS = make_key(), make_key()


def names(*numbers: int) -> list[str]:
    return [f"id-{number}" for number in numbers]


def played(
    first: list[str], second: list[str], keys: tuple[bytes, bytes] = KEYS
) -> tuple[int, list[list[bytes]]]:
    """The count, and all that travels: the asker's list, the answer, the answerer's list."""
    answerer = CountAnswerer(second, domain=DOMAIN, workers=1, key=keys[1])
    asker = CountAsker(first, answerer.count, domain=DOMAIN, workers=1, key=keys[0])
    answerer.begin(asker.count)
    lists: list[list[bytes]] = [[], [], []]
    for chunk in asker.blinded():
        lists[0].append(chunk)
        answerer.add_blinded(chunk)
    for chunk in answerer.raised():
        lists[1].append(chunk)
        asker.add_raised(chunk)
    for chunk in answerer.own():
        lists[2].append(chunk)
        asker.add_own(chunk)
    size = answerer.told(asker.size())
    asker.close()
    answerer.close()
    return size, lists


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.integers(0, 60), min_size=LEAST_IDS, max_size=50),
    st.sets(st.integers(0, 60), min_size=LEAST_IDS, max_size=50),
)
def test_it_counts_what_both_have(first: set[int], second: set[int]) -> None:
    assert count_common(names(*first), names(*second)) == len(first & second)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_what_travels_does_not_depend_on_the_order_of_ids(chance: random.Random) -> None:
    first, second = names(*range(30)), names(*range(20, 60))
    expected = played(first, second)
    chance.shuffle(first)
    chance.shuffle(second)
    assert played(first, second) == expected


def test_what_travels_is_as_long_whatever_is_common() -> None:
    """And no value of one list stands in another one, so nobody sees a match but by counting."""
    for overlap in (0, 10, 30):
        first, second = names(*range(30)), names(*range(30 - overlap, 60 - overlap))
        size, lists = played(first, second, (make_key(), make_key()))
        assert size == overlap
        values = [b"".join(each) for each in lists]
        assert [len(each) for each in values] == [30 * POINT_BYTES] * 3
        cut = [{each[at : at + POINT_BYTES] for at in range(0, len(each), 32)} for each in values]
        assert not cut[0] & cut[1]
        assert not cut[1] & cut[2]
        assert not cut[0] & cut[2]


@pytest.mark.slow
def test_the_answer_does_not_follow_the_order_of_the_question() -> None:
    """Who is asked sorts what it has raised: the places of a value before and after are unrelated.

    Over many keys, how often the value in the first place is answered in the first place is what
    chance gives.
    """
    ids, stays = names(*range(LEAST_IDS)), 0
    for _ in range(200):
        keys = make_key(), make_key()
        _, (asked, answered, _) = played(ids, ids, keys)
        first = find_group().multiply(keys[1], asked[0][:POINT_BYTES])
        stays += answered[0].startswith(first)
    assert stays <= 30  # expected 10; 30 is beyond 6 deviations


def test_two_counts_have_nothing_in_common() -> None:
    ids = names(*range(30))
    one, other = (played(ids, ids, (make_key(), make_key()))[1] for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert first[0][:POINT_BYTES] not in second[0]


def test_many_ids_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psi.cardinality._CHUNK", 64)
    monkeypatch.setattr("psi.cardinality._SLICE", 50)
    size, lists = played(names(*range(200)), names(*range(150, 230)))
    assert size == 50
    assert [[len(each) // POINT_BYTES for each in one] for one in lists] == [
        [64, 64, 64, 8],
        [64, 64, 64, 8],
        [64, 16],
    ]


@pytest.fixture
def pair() -> tuple[CountAsker, CountAnswerer]:
    ids = names(*range(30))
    answerer = CountAnswerer(ids, domain=DOMAIN)
    answerer.begin(30)
    return CountAsker(ids, 30, domain=DOMAIN), answerer


def test_a_peer_that_breaks_the_rules_is_refused(
    pair: tuple[CountAsker, CountAnswerer],
) -> None:
    asker, answerer = pair
    (chunk,) = asker.blinded()
    values = [chunk[at : at + POINT_BYTES] for at in range(0, len(chunk), POINT_BYTES)]
    bad = {
        "whole": chunk[:-1],
        "empty": b"",
        "ascending": values[1] + values[0],
        "repeated": values[0] * 2,
        "the group": b"\xff" * POINT_BYTES,
        "identity": bytes(POINT_BYTES),
    }
    for what, sent in bad.items():
        for take in (answerer.add_blinded, asker.add_raised, asker.add_own):
            with pytest.raises(psi.ValueRefusedError):
                take(sent)
            assert what
        asker, answerer = (
            CountAsker(names(*range(30)), 30, domain=DOMAIN),
            CountAnswerer(names(*range(30)), domain=DOMAIN),
        )
        answerer.begin(30)


def test_more_than_announced(pair: tuple[CountAsker, CountAnswerer]) -> None:
    _, answerer = pair
    (chunk,) = CountAsker(names(*range(31)), 30, domain=DOMAIN).blinded()
    with pytest.raises(psi.CountError, match="more than the 30"):
        answerer.add_blinded(chunk)
    for size in (-1, 31):
        with pytest.raises(psi.CountError):
            answerer.told(size)


def test_few_ids_are_not_counted() -> None:
    few, enough = names(*range(LEAST_IDS - 1)), names(*range(LEAST_IDS))
    with pytest.raises(psi.IdsError, match="a count needs 20 ids at each party"):
        count_common(few, enough)
    with pytest.raises(psi.IdsError, match="a count needs 20"):
        count_common(enough, few)
    with pytest.raises(psi.CountError, match="the peer has 19 ids"):
        CountAsker(enough, LEAST_IDS - 1, domain=DOMAIN)
    with pytest.raises(psi.CountError, match="the peer has 0 ids"):
        CountAnswerer(enough, domain=DOMAIN).begin(0)


def test_nothing_is_said_before_all_has_come(pair: tuple[CountAsker, CountAnswerer]) -> None:
    asker, answerer = pair
    with pytest.raises(psi.StateError):
        answerer.raised()
    with pytest.raises(psi.StateError):
        asker.size()
    with pytest.raises(psi.StateError):
        CountAnswerer(names(*range(30)), domain=DOMAIN).add_blinded(b"")
    asker.close()
    with pytest.raises(psi.StateError, match="closed"):
        list(asker.blinded())
