"""Where guards of the session end: the last that may be said, and the first that may not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from heterofed.protocol.limits import AHEAD_BYTES, MAX_KEY_BYTES
from heterofed.protocol.messages import (
    GRADIENT_DTYPES,
    Features,
    PredictPlan,
    PsiBegin,
    PsiKey,
    PsiTagged,
    SplitParts,
)
from heterofed.protocol.plan import Plan
from heterofed.protocol.states import State

from .link import (
    ANNOUNCED,
    BYE,
    IN_LEGS,
    PLAN,
    PREDICTED,
    PREPARED,
    ROUND,
    SIGNING,
    SUMS,
    UNBLINDED,
    C,
    H,
    Line,
    Link,
    begin_test,
    begin_train,
    blinded,
    done,
    end,
    features,
    finish,
    go_on,
    gradients,
    hello,
    keep,
    kept,
    masked,
    matched,
    round_end,
    seen,
    seen_by_others,
    signed,
    tags,
    tensor,
    welcome,
)

SECOND = (*PREPARED, *ROUND, round_end(1), kept(1), begin_train(2))
"""The second round has begun."""


def prepared(plan: Plan, **settings: Any) -> Link:
    return Link(hello(**settings), welcome(plan), *PREPARED[2:])


@pytest.mark.parametrize("number", [1, 3])
def test_nothing_is_said_of_the_round_before_or_after(number: int) -> None:
    training = Link(*SECOND, features(0, number=2))
    for line in (
        features(1, number=number),
        gradients(0, number=number),
        gradients(0, number=number, last=True),
        done(0, number=number),
        end(1, number=number),
    ):
        assert "not this round" in training.refuses(line)
    training.say(done(0, number=2), end(1, number=2))
    for line in (begin_test(number), round_end(number)):
        assert "not this round" in training.refuses(line)
    assert "not the rounds that were trained" in training.refuses(finish(number))
    training.say(round_end(2))
    assert "not the checkpoint asked for" in training.refuses(kept(number))


@pytest.mark.parametrize("number", [1, 3])
def test_nothing_is_compared_of_the_round_before_or_after(number: int) -> None:
    link = prepared(SUMS)
    link.say(begin_train(1), end(0), round_end(1), kept(1), begin_train(2), masked(0, number=2))
    link.say(done(0, number=2))
    assert "not this round" in link.refuses(seen(0, number=number))
    link.say(seen(0, number=2))
    assert "not this round" in link.refuses(seen_by_others(0, number=number))
    link.say(seen_by_others(0, number=2), end(1, number=2))


@pytest.mark.parametrize("number", [1, 3])
def test_no_checkpoint_is_of_the_round_before_or_after(number: int) -> None:
    def leg(at: int) -> list[Line]:
        return [
            features(at, number=2),
            done(at, number=2),
            features(at + 1, number=2),
            end(at + 2, number=2),
            done(at + 1, number=2),
        ]

    link = prepared(IN_LEGS)
    link.say(begin_train(1), end(0), round_end(1), kept(1), begin_train(2), *leg(0))
    assert "not this round" in link.refuses(keep(number, 2))
    link.say(keep(2, 2), kept(2, 2))
    assert "not the next round" in link.refuses(go_on(number, 2))
    for batch in (1, 3):
        assert "not the next" in link.refuses(go_on(2, batch))
    link.say(go_on(2, 2), *leg(2))
    for batch in (0, 2, 3, 6):
        assert "no checkpoint is due" in link.refuses(keep(2, batch))
    link.say(keep(2, 4), kept(2, 4))


def test_a_round_that_has_ended_does_not_go_on() -> None:
    plan = msgspec.structs.replace(IN_LEGS, checkpoint_batches=1)
    link = prepared(plan)
    link.say(begin_train(1), features(0), end(1), done(0), keep(1, 1), kept(1, 1), round_end(1))
    assert "out of turn" in link.refuses(keep(1, 1))
    link.say(kept(1))
    assert "the round has ended" in link.refuses(keep(1, 1)), "else it could go on from there"
    assert "not the next" in link.refuses(go_on(1, 1))
    assert "not the next" in link.refuses(go_on(2, 1))
    link.say(begin_train(2))


def test_rounds_are_as_many_as_the_plan_says() -> None:
    link = prepared(msgspec.structs.replace(PLAN, max_rounds=2))
    for number in (1, 2):
        link.say(begin_train(number), end(0, number=number), round_end(number), kept(number))
    assert "more rounds than the plan says" in link.refuses(begin_train(3))
    link.say(finish(2), BYE)
    assert link.state is State.CLOSED


def test_progress_never_goes_back() -> None:
    link = Link(*PREPARED[:2], *SIGNING, UNBLINDED, Line(C, PsiTagged(3)))
    for made in (1, 2, 3):
        assert "no progress" in link.refuses(Line(C, PsiTagged(made)))
    link.say(Line(C, PsiTagged(4)))


@pytest.mark.parametrize(("ids", "size"), [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_parts_take_two_bits_for_each_id(ids: int, size: int) -> None:
    link = Link(hello(), welcome(ANNOUNCED), Line(C, PsiKey(9), 500), Line(H, PsiBegin(9)))
    link.say(blinded(9), signed(9), UNBLINDED, tags(9), matched(9, last=True))
    for other in {size - 1, size + 1, 2 * size + 1} - {-1}:
        assert "not two bits for each id" in link.refuses(Line(H, SplitParts(ids), other))
    link.say(Line(H, SplitParts(ids), size))


def test_whoever_waits_for_chunks_gets_on_with_each() -> None:
    """Empty ones could come for ever, and no deadline would notice."""
    link = Link(hello(), welcome(ANNOUNCED), Line(C, PsiKey(9), 500), Line(H, PsiBegin(9)))
    assert "no value" in link.refuses(blinded(0))
    link.say(blinded(9))
    assert "no value" in link.refuses(signed(0))
    link.say(signed(9), UNBLINDED)
    assert "no progress" in link.refuses(Line(C, PsiTagged(0)))
    assert "no value" in link.refuses(tags(0))
    link.say(tags(9))
    assert "no value" in link.refuses(matched(0, last=False))
    link.say(matched(9, last=True))
    assert "no id" in link.refuses(Line(H, SplitParts(0)))


def test_one_id_is_enough_and_the_most_may_be_asked() -> None:
    for count in (1, PLAN.max_peer_ids):
        for done_before in (0, count):
            link = Link(hello(), welcome(), Line(C, PsiKey(count), 500))
            link.say(Line(H, PsiBegin(count, done_before)))
            assert link.state is State.PSI_SIGNING


@pytest.mark.parametrize("size", [1, MAX_KEY_BYTES])
def test_a_key_has_from_one_byte_to_the_most(size: int) -> None:
    Link(hello(), welcome(), Line(C, PsiKey(4), size))


@pytest.mark.parametrize(("more", "alone"), [(-1, False), (0, True), (1, True)])
def test_a_batch_that_is_large_enough_goes_alone(more: int, alone: bool) -> None:
    plan = Plan(host="bank", collaborators=("shop",), credit=3)
    large = tensor(1, AHEAD_BYTES + more, dtype="uint8")
    link = prepared(plan, trainable=False)
    for batch in range(3):  # also once others were dealt with
        link.say(*([begin_train(1, 0)] if batch == 0 else []), features(batch, large, rows=1))
        assert (link.ends[C].batch_window == 0) == alone
        assert (link.ends[H].batch_window == 0) == alone
        link.say(done(batch))


def test_a_checkpoint_is_of_all_that_was_trained() -> None:
    link = prepared(IN_LEGS)
    link.say(begin_train(1))
    for batch in range(4):
        link.say(features(batch), done(batch))
    link.say(end(4))
    assert "no checkpoint is due" in link.refuses(keep(1, 2))
    link.say(keep(1, 4))


def test_a_prediction_may_be_of_fewer_ids_than_matched() -> None:
    for count in (0, 1, 3):
        link = Link(*PREDICTED[:-1], Line(H, PredictPlan(bytes(16), 3, "last", count, bytes(32))))
        assert link.state is State.PREDICT_PROPOSED


def test_every_batch_is_answered_twice_at_most() -> None:
    link = Link(*PREPARED, begin_train(1))
    for batch in range(3):
        link.say(features(batch), gradients(batch), gradients(batch))
        for last in (True, False):
            assert "more than twice" in link.refuses(gradients(batch, last=last))
        link.say(done(batch))


def test_answers_are_to_the_oldest_open_batch() -> None:
    link = Link(
        *PREPARED, begin_train(1), features(0, tensor(2, 3)), features(1, tensor(3, 3), rows=3)
    )
    assert "not tensors of that batch" in link.refuses(gradients(0, tensor(3, 3)))
    link.say(gradients(0, tensor(2, 3)), done(0))
    assert "not tensors of that batch" in link.refuses(gradients(1, tensor(2, 3)))
    link.say(gradients(1, tensor(3, 3)))


def test_staleness_that_was_chosen_may_be_said_again() -> None:
    link = prepared(msgspec.structs.replace(PLAN, max_staleness="auto"))
    link.say(begin_train(1, 0), features(0), done(0, staleness=2), features(1))
    link.say(done(1, staleness=2), features(2))
    assert "less staleness" in link.refuses(done(2, staleness=1))


def test_no_batch_is_compared_again() -> None:
    link = prepared(SUMS)
    link.say(begin_train(1), masked(0), done(0), masked(1), done(1), seen(0))
    assert "not the batch that is next" in link.refuses(seen(0))
    link.say(seen(1), seen_by_others(0))
    assert "not the batch that is next" in link.refuses(seen_by_others(0))
    link.say(seen_by_others(1), end(2))


def test_a_round_that_was_tested_goes_on_tested() -> None:
    link = prepared(msgspec.structs.replace(IN_LEGS, checkpoint_batches=1))
    link.say(begin_train(1), features(0), end(1), done(0), begin_test(1), end(0))
    link.say(keep(1, 1), kept(1, 1), go_on(1, 1), end(1))
    assert "a second time for this round" in link.refuses(begin_test(1))
    link.say(round_end(1), kept(1), begin_train(2), end(0, number=2), begin_test(2))


def test_sizes_are_none_unless_said() -> None:
    sending, hearing = Link().ends[C], Link().ends[H]
    (_, message, _) = hello()
    sending.send(message)
    hearing.admit(message)
    assert hearing.receive(message)


@pytest.mark.parametrize(
    ("layout", "names", "fits"),
    [
        ("tensor", [""], True),
        ("tensor", ["a"], False),
        ("tensor", ["0"], False),
        ("tensor", ["", "a"], False),
        ("tuple", ["0"], True),
        ("tuple", ["0", "1", "2"], True),
        ("tuple", ["1"], False),
        ("tuple", ["+"], False),
        ("tuple", [""], False),
        ("tuple", ["00"], False),
        ("tuple", ["1", "0"], False),
        ("tuple", ["0", "2"], False),
        ("dict", ["b", "a", ""], True),
        ("dict", ["a", "a\n"], False),
    ],
)
def test_names_are_those_that_a_layout_gives(layout: Any, names: list[str], fits: bool) -> None:
    specs = tuple(tensor(2, name=name) for name in names)
    line = Line(C, Features(1, 0, 2, layout, specs), 8 * len(names))
    link = Link(*PREPARED, begin_train(1))
    if fits:
        link.say(line)
    else:
        assert "names that do not fit its layout" in link.refuses(line)


@pytest.mark.parametrize("dtype", sorted(GRADIENT_DTYPES))
@pytest.mark.parametrize("other", sorted(GRADIENT_DTYPES))
def test_gradients_have_the_dtype_of_their_features(dtype: str, other: str) -> None:
    link = Link(*PREPARED, begin_train(1), features(0, tensor(2, 2, dtype=dtype)))
    line = gradients(0, tensor(2, 2, dtype=other))
    if other == dtype:
        link.say(line)
    else:
        assert "not tensors of that batch" in link.refuses(line)


def test_each_direction_is_judged_by_its_own_coding() -> None:
    plan = Plan(
        host="bank",
        collaborators=("shop",),
        compress_features="int8",
        compress_gradients="bf16",
    )
    shape = tensor(2, 16)
    link = prepared(plan)
    assert {each.feature_coding for each in link.ends.values()} == {"int8"}
    assert {each.gradient_coding for each in link.ends.values()} == {"bf16"}
    link.say(begin_train(1, 0))
    for size in (64, 128):
        assert "shapes that" in link.refuses(features(0, shape)._replace(size=size))
    link.say(features(0, shape)._replace(size=40))
    for size in (40, 128):
        assert "shapes that" in link.refuses(gradients(0, shape)._replace(size=size))
    link.say(gradients(0, shape)._replace(size=64))


def test_before_a_plan_nothing_is_coded() -> None:
    for session in Link().ends.values():
        assert (session.feature_coding, session.gradient_coding) == ("none", "none")


@pytest.mark.parametrize("last", [True, False], ids=["gradients", "batch done"])
def test_a_round_drains_to_its_last_batch(last: bool) -> None:
    def dealt(batch: int) -> Line:
        return gradients(batch, last=True) if last else done(batch)

    link = Link(*PREPARED, begin_train(1), features(0), features(1), end(2))
    passed = [link.state]
    link.say(dealt(0))
    passed.append(link.state)
    assert "out of turn" in link.refuses(round_end(1))
    link.say(dealt(1))
    assert [*passed, link.state] == [State.TRAIN_DRAINING, State.TRAIN_DRAINING, State.READY]


@pytest.mark.parametrize(
    "begin", [(begin_train(1),), (*ROUND, begin_test(1))], ids=["train", "test"]
)
def test_the_end_of_features_alone_ends_no_phase_with_open_batches(begin: tuple[Line, ...]) -> None:
    link = Link(*PREPARED, *begin, features(0), end(1))
    assert link.state in (State.TRAIN_DRAINING, State.TEST_DRAINING)


def test_a_shape_spans_no_more_than_a_memory_holds() -> None:
    """Of no items, and yet torch would be asked for strides that it cannot have."""
    link = Link(*PREPARED, begin_train(1))
    for shape in ((2, 2**39 + 1, 0), (2, 2**39, 2, 0)):
        assert "a shape that no memory holds" in link.refuses(features(0, tensor(*shape)))
    link.say(features(0, tensor(2, 2**39, 0)))


@pytest.mark.parametrize("shape", [(2,), (2, 2), (2, 4), (1, 3), (2, 3, 1), (1, 6)])
def test_gradients_have_the_shape_of_their_features(shape: tuple[int, ...]) -> None:
    link = Link(*PREPARED, begin_train(1), features(0))
    assert "not tensors of that batch" in link.refuses(gradients(0, tensor(*shape)))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "bool", "float64"])
def test_masked_features_are_whole_numbers_of_64_bits(dtype: str) -> None:
    link = prepared(SUMS)
    link.say(begin_train(1))
    (_, message, _) = masked(0)
    spec = tensor(2, 3, dtype=dtype)
    other = msgspec.structs.replace(message, tensors=(spec,))
    assert "not one masked tensor" in link.refuses(Line(C, other, spec.nbytes))
    link.say(masked(0))


@pytest.mark.parametrize(
    "other",
    [
        features(1, tensor(2, 3), rows=3),
        features(1, tensor(2, 3))._replace(size=20),
        features(1, tensor(2, 4)),
        features(1, tensor(2, 3, dtype="float64")),
        features(1, tensor(2, 3, name="x")),
    ],
)
def test_a_batch_like_the_one_before_is_checked_as_well(other: Line) -> None:
    link = Link(*PREPARED, begin_train(1), features(0, tensor(2, 3)))
    link.refuses(other)
    link.say(features(1, tensor(2, 3)))
    link.say(gradients(0, tensor(2, 3), last=True))
    for wrong in (tensor(2, 4), tensor(2, 3, dtype="float64")):
        link.refuses(gradients(1, wrong, last=True))
    link.say(gradients(1, tensor(2, 3), last=True))
