"""The messages of a count: each in its turn, and as many values as were announced."""

from __future__ import annotations

import pytest

from heterofed.protocol.limits import most_waiting
from heterofed.protocol.messages import (
    CountBegin,
    CountBlinded,
    CountOwn,
    CountRaised,
    CountReady,
    CountResult,
    PredictPlan,
    PsiKey,
    PsiTagged,
    SplitPlan,
)
from heterofed.protocol.states import State
from tests.protocol.link import (
    ANSWERED,
    COUNT_RUN,
    COUNTING,
    GREETING,
    PLAN,
    C,
    H,
    Line,
    Link,
    Purpose,
    finish,
    hello,
    points,
    welcome,
)

COUNTED = (*ANSWERED, Line(H, CountResult(4)))
MET = (hello(purpose="overlap"), welcome())
ASKED = (*COUNTING, points(CountBlinded(5)))


def test_an_honest_count() -> None:
    assert Link(*COUNT_RUN).state is State.CLOSED


@pytest.mark.parametrize(
    ("before", "line", "why"),
    [
        (MET, Line(C, PsiKey(4), 500), "only a count was asked for"),
        (GREETING, Line(H, CountBegin(5)), "no count was asked for"),
        (MET, Line(H, CountBegin(0)), "out of range"),
        (MET, Line(H, CountBegin(101)), "out of range"),
        (MET, Line(H, CountBegin(5), 1), "payload"),
        (COUNTING[:3], Line(C, CountReady(101)), "out of range"),
        (COUNTING, points(CountBlinded(6)), "more than announced"),
        (COUNTING, Line(H, CountBlinded(2), 63), "wrong size"),
        (COUNTING, Line(H, CountBlinded(0), 0), "no value"),
        (COUNTING, points(CountRaised(5)), "before all values"),
        (COUNTING, Line(C, PsiTagged(10)), "too much"),
        (ASKED, points(CountRaised(6)), "more than were asked"),
        (ASKED, points(CountOwn(1)), "out of turn"),
        ((*ASKED, points(CountRaised(4))), points(CountOwn(1)), "before all that were asked"),
        ((*ASKED, points(CountRaised(5))), points(CountOwn(5)), "more than announced"),
        ((*ASKED, points(CountRaised(5)), points(CountOwn(3))), Line(H, CountResult(1)), "before"),
        (ANSWERED, Line(H, CountResult(5)), "more than there can be"),
        (
            (*ANSWERED, Line(H, CountResult(4))),
            Line(H, SplitPlan(bytes(32), bytes(32), 2, 1)),
            "tr",
        ),
        (COUNTED, Line(H, PredictPlan(bytes(16), 3, "last", 0, bytes(32))), "not a prediction"),
        (COUNTED, finish(1), "rounds"),
    ],
)
def test_what_is_refused(before: tuple[Line, ...], line: Line, why: str) -> None:
    assert why in Link(*before).refuses(line)


def test_both_lists_may_wait() -> None:
    more = most_waiting(PLAN, counts=True) - most_waiting(PLAN)
    assert more >= 0
    big = PLAN.__class__(host="a", collaborators=("b",), max_peer_ids=10**9)
    assert most_waiting(big, counts=True) >= 64 * 10**9


@pytest.mark.parametrize("count", [1, PLAN.max_peer_ids])
def test_counts_are_of_one_id_up_to_the_limit(count: int) -> None:
    link = Link(*MET, Line(H, CountBegin(count)), Line(C, CountReady(count)))
    link.say(points(CountBlinded(count)))
    assert link.state is State.PSI_COUNT_ASKED


@pytest.mark.parametrize(("values", "size"), [(1, 31), (1, 33), (1, 64), (2, 32), (2, 65)])
def test_a_chunk_has_32_bytes_for_each_value(values: int, size: int) -> None:
    assert "wrong size" in Link(*COUNTING).refuses(Line(H, CountBlinded(values), size))


def test_a_chunk_is_a_frame_at_most() -> None:
    many = (1 << 20) // 32
    wide = PLAN.__class__(host="a", collaborators=("b",))
    link = Link(hello(purpose="overlap"), welcome(wide))
    link.say(Line(H, CountBegin(2 * many)), Line(C, CountReady(1)))
    assert "wrong size" in link.refuses(points(CountBlinded(many + 1)))
    link.say(points(CountBlinded(many)))


def test_a_session_has_room_for_both_lists_only_while_it_counts() -> None:
    big = PLAN.__class__(host="a", collaborators=("b",), max_peer_ids=10**8)
    purposes: list[Purpose] = ["train", "psi", "overlap", "predict", "rehearse"]
    for purpose in purposes:
        link = Link(hello(purpose=purpose), welcome(big))
        expected = most_waiting(big, counts=purpose == "overlap")
        assert [each.most_waiting for each in link.ends.values()] == [expected] * 2
