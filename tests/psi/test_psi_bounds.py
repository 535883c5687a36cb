"""What both parties count, and in which order they are called: what just may be, and what not.

Over ECDH, which is fast; the counting is the same for both protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psi import (
    Budget,
    BudgetError,
    CountError,
    IdsError,
    LimitError,
    ProofError,
    Resume,
    StateError,
    ValueRefusedError,
)
from psi.ecdh.group import POINT_BYTES
from psi.signing import MAX_CHUNK
from tests.psi.ecdh_helpers import requester, signer

A, B = list("abcdefgh"), list("hgfexyz")
"""Four in common: e, f, g, h."""


def signed_all(asking: Any, signing: Any) -> None:
    signing.begin(asking.count)
    for chunk in asking.blinded():
        asking.unblind(signing.sign(chunk))


def met(asking: Any, signing: Any) -> None:
    signed_all(asking, signing)
    for chunk in signing.tags():
        asking.add_tags(chunk)


# -- whoever asks -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_peer_may_announce_up_to_the_limit(count: int) -> None:
    with signer([str(each) for each in range(count)]) as signing:
        requester(A, signing, max_peer_ids=count).close()
        requester(A, signing, max_peer_ids=7).close()
        if count:
            with pytest.raises(CountError, match=f"{count} ids; allowed: 0 to {count - 1}"):
                requester(A, signing, max_peer_ids=count - 1)


@pytest.mark.parametrize(
    ("chunk_ids", "sizes"),
    [(1, [1] * 8), (3, [3, 3, 2]), (7, [7, 1]), (8, [8]), (9, [8]), (10**9, [8])],
)
def test_chunks_have_as_many_ids_as_asked(chunk_ids: int, sizes: list[int]) -> None:
    with signer(B) as signing:
        asking = requester(A, signing, chunk_ids=chunk_ids)
        chunks = list(asking.blinded())
        assert [len(chunk) for chunk in chunks] == [POINT_BYTES * each for each in sizes]
        signing.begin(8)
        for chunk in chunks:
            asking.unblind(signing.sign(chunk))


def test_a_chunk_is_cut_to_what_a_frame_holds() -> None:
    with signer(B) as signing:
        asking = requester(A, signing, chunk_ids=10**9)
        assert asking.value_bytes == POINT_BYTES
        assert asking._chunk_ids == MAX_CHUNK // POINT_BYTES


def test_an_intersection_needs_all_signatures_and_all_tags() -> None:
    with signer(B) as signing:
        asking = requester(A, signing, chunk_ids=4)
        signing.begin(8)
        signed = [signing.sign(chunk) for chunk in asking.blinded()]
        tags = b"".join(signing.tags())
        asking.unblind(signed[0])
        asking.add_tags(tags)
        with pytest.raises(StateError, match="before all signatures"):
            asking.intersection()
        asking.unblind(signed[1])
        assert asking.intersection() == list("efgh")
        assert list(asking.positions()) == [4, 5, 6, 7]
    with signer(B) as signing:
        asking = requester(A, signing)
        signed_all(asking, signing)
        tags = b"".join(signing.tags())
        asking.add_tags(tags[:-16])
        with pytest.raises(StateError, match="before all signatures and tags"):
            asking.intersection()
        with pytest.raises(CountError, match="6 tags came where 7"):
            asking.add_tags(b"", last=True)
        with pytest.raises(CountError, match="8 tags came where 7"):
            asking.add_tags(tags[-16:] + bytes(16))
        asking.add_tags(tags[-16:], last=True)
        assert asking.intersection() == list("efgh")


@pytest.mark.parametrize("part", ["", "e", "hg", "efgh"])
def test_any_part_of_an_intersection_can_be_proved(part: str) -> None:
    with signer(B) as signing:
        asking = requester(A, signing)
        met(asking, signing)
        proofs = list(asking.proofs(list(part)))
        assert sum(map(len, proofs)) == 16 * len(part)
        for chunk in proofs:
            assert signing.matched(chunk, last=False) is None
        assert signing.matched(b"", last=True) == [each for each in B if each in part]


@pytest.mark.parametrize(
    ("ids", "says"), [("ea", "1 of 2"), ("a", "1 of 1"), ("abe?", "3 of 4"), ("x", "1 of 1")]
)
def test_nothing_else_can_be_proved(ids: str, says: str) -> None:
    with signer(B) as signing:
        asking = requester(A, signing)
        met(asking, signing)
        with pytest.raises(IdsError, match=f"{says} ids are not in the intersection"):
            asking.proofs(list(ids))
        positions = [A.index(each) for each in ids if each in A]
        if positions and "?" not in ids:
            with pytest.raises(IdsError, match="not in the intersection"):
                asking.proofs_at(positions)
        assert sum(map(len, asking.proofs_at([4, 4, 7]))) == 32


def test_tags_are_counted_once_for_the_same_key_and_ids(tmp_path: Path) -> None:
    budget = Budget(tmp_path / "budget", peer="shop", task="t", counts="matched tags")

    def ask(signing: Any, limit: int, *, keep: bool = True) -> Any:
        resume = Resume(tmp_path / "kept", peer="shop", task="t") if keep else None
        return requester(A, signing, budget=budget, max_peer_ids=limit, resume=resume)

    with signer(B) as signing, ask(signing, 7) as first:
        assert (first.known, first.resumed) == (False, 0)
        met(first, signing)
        assert budget.spent() == 0
        assert first.intersection() == list("efgh")
        assert first.intersection() == list("efgh")
    assert budget.spent() == 7
    with signer(B) as signing, ask(signing, 7) as again:
        assert (again.known, again.resumed) == (True, 8)
        signing.begin(0)
        for chunk in signing.tags():
            again.add_tags(chunk)
        assert again.intersection() == list("efgh")
    assert budget.spent() == 7
    with signer(B) as signing:
        with pytest.raises(LimitError):  # without what was kept they would be other tags
            ask(signing, 13, keep=False)
        other = ask(signing, 14, keep=False)
        assert not other.known
        met(other, signing)
        assert other.intersection() == list("efgh")
    assert budget.spent() == 14


# -- whoever signs ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 8])
def test_a_request_is_from_none_up_to_the_limit(count: int) -> None:
    with signer(B, max_peer_ids=8) as signing:
        with pytest.raises(LimitError, match="announced 9 ids; allowed: 8"):
            signing.begin(9)
        with pytest.raises(CountError, match="negative"):
            signing.begin(-1)
        signing.begin(count)
        if count == 0:
            assert len(b"".join(signing.tags())) == 16 * 7
        else:
            with pytest.raises(StateError, match="before all announced values were signed"):
                signing.tags()


def fresh(signing: Any, count: int) -> bytes:
    """So many blinded values, which nobody has sent before."""
    (chunk,) = requester(A[:count], signing).blinded()
    return bytes(chunk)


def test_without_a_limit_of_their_own_so_many_may_be_asked() -> None:
    with signer(B) as signing:
        with pytest.raises(LimitError, match="allowed: 10000000"):
            signing.begin(10_000_001)
        signing.begin(10_000_000)


def test_nobody_has_what_was_not_signed() -> None:
    with signer(B) as signing, pytest.raises(CountError, match="has 1 of 0 signed values"):
        signing.begin(8, 1)


def test_no_value_more_is_signed_than_announced() -> None:
    with signer(B) as signing:
        signing.begin(7)
        signing.sign(fresh(signing, 4))
        with pytest.raises(CountError, match="8 values to sign where 7 were announced"):
            signing.sign(fresh(signing, 4))
        with pytest.raises(StateError, match="before all announced values were signed"):
            signing.tags()
        signing.sign(fresh(signing, 3))
        with pytest.raises(CountError):
            signing.sign(fresh(signing, 1))
        assert len(b"".join(signing.tags())) == 16 * 7


@pytest.mark.parametrize("done", [0, 3, 4])
def test_a_requester_has_what_was_signed_or_less(done: int) -> None:
    with signer(B) as signing:
        signing.begin(8)
        signing.sign(fresh(signing, 4))
        for wrong in (-1, 5, 8):
            with pytest.raises(CountError, match=f"has {wrong} of 4 signed values"):
                signing.resume(wrong)
        signing.resume(done)
        signing.sign(fresh(signing, 8 - done - 1))
        with pytest.raises(StateError):
            signing.tags()
        signing.sign(fresh(signing, 1))
        assert len(b"".join(signing.tags())) == 16 * 7


def test_a_lost_answer_comes_again_and_counts_once(tmp_path: Path) -> None:
    budget = Budget(tmp_path, peer="bank", task="t")
    with signer(B, budget=budget, max_peer_ids=8) as signing:
        chunk = fresh(signing, 8)
        signing.begin(8)
        first = signing.sign(chunk)
        for _ in range(3):
            signing.resume(0)
            assert signing.sign(chunk) == first
            assert budget.spent() == 8
            with pytest.raises(ValueRefusedError, match="twice"):
                signing.sign(chunk)
        signing.resume(0)
        with pytest.raises(LimitError):  # other values than before are new guesses
            signing.sign(fresh(signing, 8))
        assert budget.spent() == 8


def test_so_many_other_values_are_signed_again_and_no_more() -> None:
    with signer(B) as signing:
        signing.begin(2 * 16_384)
        signing._signed_in_all = 16_384 + 2
        signing.resume(2)
        with pytest.raises(BudgetError, match="16385 values to sign again; 16384 are allowed"):
            signing.resume(1)


@pytest.mark.parametrize("spent", [0, 3])
def test_a_request_is_refused_at_once_where_the_budget_does_not_last(
    spent: int, tmp_path: Path
) -> None:
    budget = Budget(tmp_path, peer="bank", task="t")
    budget.spend(spent, 100)
    with signer(B, budget=budget, max_peer_ids=10) as signing:
        if spent:
            with pytest.raises(LimitError, match="3 of the 10"):
                signing.begin(8)
        signing.begin(10 - spent)
    assert budget.spent() == spent, "nothing is spent by asking"


def test_as_many_matches_as_ids_and_each_once() -> None:
    with signer(list("ab")) as signing:
        asking = requester(list("ba"), signing)
        met(asking, signing)
        (proofs,) = asking.proofs(["a", "b"])
        signing.add_proofs(proofs[:16])
        with pytest.raises(ProofError, match="twice"):
            signing.add_proofs(proofs[:16])
    with signer(list("abc")) as signing:
        asking = requester(list("ba"), signing)
        met(asking, signing)
        (proofs,) = asking.proofs(["a", "b"])
        signing.add_proofs(proofs)
        signing.add_proofs(b"")
        assert list(signing.positions()) == [0, 1]
        assert signing.matched(b"", last=True) == ["a", "b"]


def test_the_order_of_calls_is_kept_and_ends_with_close() -> None:
    signing = signer(B)
    assert (signing.kept, signing.progress()) == (False, 0)
    calls: list[Callable[[], object]] = [
        signing.precompute,
        lambda: signing.ready(0.0),
        lambda: signing.begin(1),
        lambda: signing.sign(bytes(POINT_BYTES)),
        lambda: signing.resume(0),
        signing.tags,
        lambda: signing.add_proofs(b""),
        lambda: signing.matched(b"", last=True),
    ]
    for too_early in (calls[3:], [signing.positions]):
        for call in too_early:
            with pytest.raises(StateError):
                call()
    signing.begin(0)
    for call in (calls[2], calls[6], signing.positions):
        with pytest.raises(StateError):
            call()
    list(signing.tags())
    for call in (calls[4], calls[5]):
        with pytest.raises(StateError):
            call()
    assert signing.ready(0.0)
    assert signing.progress() == 7
    signing.close()
    signing.close()
    for call in calls:
        with pytest.raises(StateError, match="closed"):
            call()
