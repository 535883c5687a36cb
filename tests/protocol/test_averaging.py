"""The guards of a horizontal task, proved on both ends of a link."""

from __future__ import annotations

import msgspec
import pytest

from heterofed.errors import RemoteProtocolError
from heterofed.protocol import limits
from heterofed.protocol.codec import Decoder, encode
from heterofed.protocol.messages import (
    MAX_SCORES,
    MAX_WEIGHTS,
    BeginScores,
    DescribeModel,
    InitialWeights,
    ModelLayout,
    Scores,
    Update,
    WeightsHeld,
    WeightSpec,
)
from heterofed.protocol.states import Role, State

from .link import (
    AVERAGE_RUN,
    AVERAGED,
    DESCRIBED,
    KEY,
    LAYOUT,
    PREPARED_TO_AVERAGE,
    SCORED,
    WEIGHTS,
    C,
    H,
    Line,
    Link,
    average,
    begin_test,
    begin_train,
    begin_update,
    finish,
    hello,
    keep,
    kept,
    round_end,
    update,
    welcome,
    welcome_back,
)

MASKED = msgspec.structs.replace(AVERAGED, fusion="masked_sum", collaborators=("shop", "inn"))


def test_an_honest_run_ends_closed_at_both_ends() -> None:
    assert Link(*AVERAGE_RUN).state is State.CLOSED


def test_a_plan_is_of_its_kind_of_task() -> None:
    why = "a plan for another kind of task"
    assert why in Link(hello()).refuses(welcome(AVERAGED))
    assert why in Link(hello(purpose="average")).refuses(welcome())
    assert why in Link(hello(2)).refuses(welcome_back(2, AVERAGED))
    Link(hello(2, purpose="average"), welcome_back(2, AVERAGED), begin_update(3))


def test_no_ids_and_no_features_are_exchanged() -> None:
    start = Link(*DESCRIBED[:2])
    assert "no ids are intersected" in start.refuses(KEY)
    ready = Link(*PREPARED_TO_AVERAGE)
    for line in (begin_train(1), keep(1, 1)):
        ready.refuses(line)
    assert "sends no features" in ready.refuses(begin_test(0))


@pytest.mark.parametrize("purpose", ["psi", "overlap", "predict", "train"])
def test_no_other_task_averages(purpose: str) -> None:
    link = Link(hello(purpose=purpose), welcome())  # type: ignore[arg-type]
    assert "not a horizontal task" in link.refuses(Line(H, DescribeModel(weights=False)))


def described(*specs: WeightSpec) -> Line:
    return Line(C, ModelLayout(specs), sum(each.nbytes for each in specs))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (Line(C, ModelLayout(LAYOUT)), "not the weights that were asked for"),
        (Line(C, ModelLayout(LAYOUT), WEIGHTS + 1), "not the weights that were asked for"),
        (described(LAYOUT[0], LAYOUT[0]), "a tensor's name twice"),
        (described(WeightSpec("w", "float32", (26,), True)), "more bytes than the plan's"),
        (described(WeightSpec("w", "float32", (0,), True)), "a model without weights"),
        (
            described(LAYOUT[0], WeightSpec("w", "float32", (0, 2**40, 2**40), True)),
            "a shape that no memory holds",
        ),
    ],
)
def test_a_layout_is_checked(line: Line, why: str) -> None:
    assert why in Link(*DESCRIBED[:3]).refuses(line)


def test_weights_are_those_of_the_layout() -> None:
    link = Link(*DESCRIBED)
    for size in (0, WEIGHTS - 1, WEIGHTS + 1):
        assert "not the weights of that layout" in link.refuses(Line(H, InitialWeights(), size))
    link = Link(*PREPARED_TO_AVERAGE, begin_update(1))
    for size in (0, WEIGHTS - 8, WEIGHTS + 8):
        assert "not the tensors of its layout" in link.refuses(update(1, size))
    assert "more bytes than the plan's models" in link.refuses(update(1, 101))
    link.say(update(1))
    for size in (0, WEIGHTS - 8, WEIGHTS + 8):
        assert "not the weights of that layout" in link.refuses(average(1, size))


def test_a_masked_update_has_a_number_for_each_weight() -> None:
    plain = [*PREPARED_TO_AVERAGE]
    plain[1] = welcome(MASKED)
    link = Link(*plain, begin_update(1))
    assert "not the tensors of its layout" in link.refuses(update(1))
    link.say(update(1, 7 * 8), average(1))


def test_after_a_resumption_sizes_are_bounded_by_the_plan() -> None:
    link = Link(hello(2, purpose="average"), welcome_back(2, AVERAGED), begin_update(3))
    assert "more bytes than the plan's models" in link.refuses(update(3, 101))
    link.say(update(3, 100))


def test_rounds_come_in_order_and_once() -> None:
    link = Link(*PREPARED_TO_AVERAGE)
    for line in (begin_update(2), average(2), begin_update(3)):
        link.refuses(line)
    for early in (round_end(1), Line(H, BeginScores(1)), finish(1)):
        link.refuses(early)
    link.say(begin_update(1))
    assert "not this round" in link.refuses(update(2))
    link.say(update(1))
    link.refuses(update(1))  # a second time
    assert "not this round" in link.refuses(average(2))
    link.say(average(1))
    for again in (average(1), average(2), begin_update(1), begin_update(2), update(1)):
        link.refuses(again)
    link.say(*SCORED)
    assert "a second time" in link.refuses(SCORED[0])
    link.say(round_end(1), kept(1))
    for replayed in (begin_update(1), average(1), SCORED[0], round_end(1)):
        link.refuses(replayed)
    link.say(average(2))
    assert "not the rounds" in link.refuses(finish(1))
    assert "has not ended" in link.refuses(finish(2))


def test_no_round_comes_after_those_of_the_plan() -> None:
    plan = msgspec.structs.replace(AVERAGED, max_rounds=2)
    link = Link(hello(2, purpose="average"), welcome_back(2, plan))
    assert "more rounds than the plan says" in link.refuses(begin_update(3))


@pytest.mark.parametrize(
    "message", [Update(1, 4, (("a", 1.0),) * 2), Scores(1, 4, (("a", 1.0),) * 2)]
)
def test_a_score_has_its_name_once(message: Update | Scores) -> None:
    link = Link(*PREPARED_TO_AVERAGE, begin_update(1))
    if isinstance(message, Scores):
        link.say(update(1), average(1), SCORED[0])
        assert "name twice" in link.refuses(Line(C, message))
    else:
        assert "name twice" in link.refuses(Line(C, message, WEIGHTS))


def decoded(message: object) -> object:
    return Decoder(lambda _message, _size: None).feed(bytes(encode(message)[0]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        Update(1, 0),
        Update(0, 1),
        Update(1, 2**41),
        Scores(1, -1),
        Scores(1, 1, (("=1+1", 1.0),)),
        Scores(1, 1, (("a" * 65, 1.0),)),
        Scores(1, 1, (("a", 1.0),) * (MAX_SCORES + 1)),
        ModelLayout(()),
        ModelLayout((WeightSpec("", "float32", (1,), True),)),
        ModelLayout((WeightSpec("a b", "float32", (1,), True),)),
        ModelLayout((WeightSpec("w", "float32", (1,) * 9, True),)),
        ModelLayout((WeightSpec("w", "complex64", (1,), True),)),  # type: ignore[arg-type]
        ModelLayout((WeightSpec("w", "float32", (-1,), True),)),
    ],
)
def test_fields_out_of_range_cannot_be_said(message: object) -> None:
    raw = msgspec.msgpack.encode(message)
    framed = b"HF\x01\x00" + len(raw).to_bytes(4, "little") + bytes(8) + raw
    with pytest.raises(RemoteProtocolError):
        Decoder(lambda _message, _size: None).feed(framed)


def test_the_longest_messages_fit() -> None:
    scores = tuple((f"{number:a>64}", 0.5) for number in range(MAX_SCORES))
    for state, message in (
        (State.UPDATING, Update(10**9, 2**40, scores)),
        (State.SCORING, Scores(10**9, 2**40, scores)),
        (State.MODEL_ASKED, ModelLayout(tuple(_usual(number) for number in range(MAX_WEIGHTS)))),
    ):
        most = limits.limits_of(state, AVERAGED).header
        assert len(msgspec.msgpack.encode(message)) <= most
        assert decoded(message)


def _usual(number: int) -> WeightSpec:
    return WeightSpec(f"encoder.layers.{number}.attention.weight", "float32", (768, 768), True)


def test_only_the_host_averages() -> None:
    for role in Role:
        assert role.other is not role
    link = Link(*PREPARED_TO_AVERAGE)
    for line in (Line(C, average(1).message, WEIGHTS), Line(C, WeightsHeld())):
        link.refuses(line)
