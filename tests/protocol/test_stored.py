"""The messages of a request to a stored set: each in its turn, and as many values as announced."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterofed.protocol import limits
from heterofed.protocol.messages import (
    CountBegin,
    PsiKey,
    SplitPlan,
    StoredBegin,
    StoredBlinded,
    StoredClaims,
    StoredEvaluated,
    StoredFilter,
    StoredOffer,
    StoredReplies,
)
from heterofed.protocol.states import State
from heterofed.reporting.egress import HOLDS
from psi.ecdh import group, rfc9497
from psi.unequal import filter as filters
from psi.unequal import outputs, wire
from tests.protocol.link import (
    COUNT_RUN,
    EVALUATED,
    FETCHED,
    FETCHING,
    GREETING,
    OFFERED,
    PSI_RUN,
    STORED_RUN,
    C,
    H,
    Line,
    Link,
    finish,
    hello,
    stored,
    welcome,
)

MET = (hello(purpose="stored"), welcome())
KEPT = (*OFFERED, Line(H, StoredBegin(5, fetch=False)))
CLAIMED = (*EVALUATED, stored(StoredClaims(2, last=False)))
ENDED = (*EVALUATED, stored(StoredClaims(0, last=True)))


def offer(count: int = 50, size: int = 300, name: str = "0" * 16) -> Line:
    return Line(C, StoredOffer(name, count, size))


def test_an_honest_request() -> None:
    assert Link(*STORED_RUN).state is State.CLOSED
    assert Link(*ENDED).state is State.SPLIT, "no hit, so nothing to confirm"
    assert Link(*ENDED, finish(0)).state is State.FINISHING


@pytest.mark.parametrize(
    ("before", "line", "why"),
    [
        (MET, Line(C, PsiKey(4), 500), "a stored set was asked for"),
        (MET, Line(H, CountBegin(5)), "no count was asked for"),
        (GREETING, offer(), "no stored set was asked for"),
        (MET, offer(count=0), "out of range"),
        (MET, offer(count=101), "out of range"),
        (MET, offer(size=0), "impossible size"),
        (MET, offer(count=1, size=8 + 4097), "impossible size"),
        (MET, Line(C, offer().message, 1), "payload"),
        (OFFERED, Line(H, StoredBegin(0, fetch=True)), "out of range"),
        (OFFERED, Line(H, StoredBegin(101, fetch=True)), "out of range"),
        (OFFERED, Line(H, StoredBegin(5, fetch=True), 1), "payload"),
        (OFFERED, Line(C, StoredFilter(), 1), "out of turn"),
        (FETCHING, Line(C, StoredFilter(), 0), "wrong size"),
        (FETCHING, Line(C, StoredFilter(), 301), "more of the filter"),
        (FETCHED, Line(C, StoredFilter(), 1), "more of the filter"),
        (KEPT, Line(C, StoredFilter(), 1), "more of the filter"),
        (FETCHING, stored(StoredBlinded(1)), "before the whole filter"),
        (FETCHED, stored(StoredBlinded(0)), "no value"),
        (FETCHED, stored(StoredBlinded(6)), "more than announced"),
        (FETCHED, Line(H, StoredBlinded(2), 63), "wrong size"),
        ((*FETCHED, stored(StoredBlinded(5))), stored(StoredBlinded(1)), "more than announced"),
        (KEPT, stored(StoredEvaluated(1)), "nothing waits"),
        ((*KEPT, stored(StoredBlinded(2))), stored(StoredEvaluated(1)), "not as many"),
        ((*KEPT, stored(StoredBlinded(2))), Line(C, StoredEvaluated(2), 64), "wrong size"),
        (KEPT, stored(StoredClaims(1, last=True)), "before all values"),
        ((*KEPT, stored(StoredBlinded(5))), stored(StoredClaims(1, last=True)), "before all"),
        (EVALUATED, stored(StoredClaims(6, last=True)), "more than there can be"),
        (EVALUATED, stored(StoredClaims(0, last=False)), "no value"),
        (EVALUATED, Line(H, StoredClaims(0, last=True), 1), "payload"),
        (EVALUATED, Line(H, StoredClaims(1, last=True), 17), "wrong size"),
        (CLAIMED, stored(StoredClaims(4, last=False)), "more than there can be"),
        (CLAIMED, stored(StoredReplies(1)), "not as many"),
        (CLAIMED, Line(C, StoredReplies(2), 33), "wrong size"),
        (CLAIMED, stored(StoredBlinded(1)), "out of turn"),
        ((*CLAIMED, stored(StoredReplies(2))), stored(StoredReplies(2)), "no claim"),
        (
            (*CLAIMED, stored(StoredClaims(1, last=True))),
            stored(StoredClaims(1, last=True)),
            "after the last one",
        ),
        (CLAIMED, finish(0), "out of turn"),
        (ENDED, Line(H, SplitPlan(bytes(32), bytes(32), 2, 1)), "tr"),
        (ENDED, finish(1), "rounds"),
    ],
)
def test_what_is_refused(before: tuple[Line, ...], line: Line, why: str) -> None:
    assert why in Link(*before).refuses(line)


def test_eight_chunks_may_wait_and_a_chunk_has_4096_values() -> None:
    wide = msgspec.structs.replace(welcome().message.plan, max_peer_ids=10**6)  # type: ignore[attr-defined]
    link = Link(hello(purpose="stored"), welcome(wide), offer(), Line(H, StoredBegin(10**6, False)))
    assert "too many" in link.refuses(stored(StoredBlinded(4097)))
    link.say(*[stored(StoredBlinded(4096))] * limits.PSI_WINDOW)
    assert "beyond its window" in link.refuses(stored(StoredBlinded(1)))
    link.say(stored(StoredEvaluated(4096)), stored(StoredBlinded(1)))


def test_the_limits_are_those_of_the_library() -> None:
    assert wire.MAX_VALUES == limits.STORED_VALUES
    assert filters.MAX_CHUNK == limits.MAX_FRAME_BYTES
    assert (group.POINT_BYTES, outputs.PART) == (limits.POINT_BYTES, limits.TAG_BYTES)
    assert rfc9497.PROOF_BYTES == limits.KEY_PROOF_BYTES


@pytest.mark.parametrize(
    "name", ["", "0" * 15, "0" * 17, "G" * 16, "0" * 15 + "\n", "../" + "0" * 13]
)
def test_the_name_of_a_set_has_16_digits(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(("StoredOffer", name, 1, 1), StoredOffer)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 100_000_000), rate=st.sampled_from([1e-4, 1e-7, 1e-9]))
def test_every_filter_may_be_offered(count: int, rate: float) -> None:
    size = filters.Shape.of(count, rate).size
    plan = msgspec.structs.replace(welcome().message.plan, max_peer_ids=10**9)  # type: ignore[attr-defined]
    link = Link(hello(purpose="stored"), welcome(plan), offer(count, size))
    assert link.state is State.PSI_STORED
    # It may all wait while this party is busy.
    assert size <= limits.most_waiting(msgspec.structs.replace(plan, max_peer_ids=count))


def test_what_leaves_with_ids_in_it_is_named_in_the_list_of_what_was_sent() -> None:
    lines = (*STORED_RUN, *COUNT_RUN, *PSI_RUN)
    assert {type(line.message).__name__ for line in lines if line.size} <= HOLDS.keys()
