"""The table and the guards beside it, proved on both ends of a link."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest

from heterofed.errors import LocalProtocolError, RemoteProtocolError
from heterofed.protocol.limits import AHEAD_BYTES, PSI_WINDOW, SERVE_WINDOW
from heterofed.protocol.messages import (
    MESSAGE_TYPES,
    Abort,
    BeginTest,
    Bye,
    Checkpoint,
    Features,
    Findings,
    Gradients,
    GradientsSeen,
    Held,
    Hello,
    Mark,
    Message,
    PredictPlan,
    PsiBegin,
    PsiBlinded,
    PsiKey,
    PsiMatched,
    PsiSigned,
    PsiTagged,
    PsiTags,
    SeenByOthers,
    SplitParts,
    TensorSpec,
    Terms,
    Waiting,
    WelcomeBack,
)
from heterofed.protocol.plan import Plan
from heterofed.protocol.session import Session
from heterofed.protocol.states import ENDED, TABLE, Role, State

from .link import (
    ABORT,
    ACCEPTED,
    ANNOUNCED,
    AVERAGE_RUN,
    BEGIN,
    BYE,
    COUNT_RUN,
    FINISH,
    GREETING,
    HONEST_RUN,
    HORIZONTAL,
    IN_LEGS,
    INTERSECTED,
    KEY,
    MATCHING,
    OLD_KEY,
    PLAN,
    PREDICT_ACCEPTED,
    PREDICT_PLAN,
    PREDICT_RUN,
    PREDICTED,
    PREPARED,
    PROBE_RUN,
    PSI_RUN,
    RENEW,
    RESUMED,
    ROUND,
    SERVE_ACCEPTED,
    SERVE_REFUSED,
    SERVE_RUN,
    SERVED,
    SIGNING,
    SITE_RUN,
    SPLIT_PLAN,
    SUMMED,
    SUMS,
    TEST,
    UNBLINDED,
    WAITING,
    WIDTH,
    C,
    H,
    Line,
    Link,
    answered,
    asked,
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
    link_in,
    masked,
    matched,
    parts,
    round_end,
    seen,
    seen_by_others,
    serve_plan,
    signed,
    tags,
    tensor,
    view,
    welcome,
    welcome_back,
)

SAMPLES: dict[type[Message], Line] = {
    type(line.message): line
    for line in (
        *SITE_RUN,
        *AVERAGE_RUN,
        *SERVE_RUN,
        *PREDICT_RUN,
        *COUNT_RUN,
        *PROBE_RUN,
        *HONEST_RUN,
    )
}
SAMPLES[Abort] = Line(H, ABORT)
SAMPLES[Terms] = Line(H, Terms(b""))
SAMPLES[WelcomeBack] = welcome_back(3)
SAMPLES[Checkpoint] = keep(1, 2)
SAMPLES[SplitParts] = parts(3)
SAMPLES[Findings] = Line(H, Findings(()))
SAMPLES[GradientsSeen] = seen(0)
SAMPLES[SeenByOthers] = seen_by_others(0)


def lines_of(state: State, role: Role) -> list[Line]:
    """One well-formed line of every type that the table does not list."""
    return [
        Line(role, SAMPLES[kind].message, SAMPLES[kind].size)
        for kind in MESSAGE_TYPES
        if (role, kind) not in TABLE[state]
    ]


def test_an_honest_run_ends_closed_at_both_ends() -> None:
    link = Link()
    passed = [link.state]
    for line in HONEST_RUN:
        link.say(line)
        passed.append(link.state)
    apart = ("psi_count", "serv", "probe")
    others = {state for state in State if state.startswith(apart)} | HORIZONTAL
    assert set(passed) == set(State) - {State.FAILED, State.PREDICT_PROPOSED} - others
    assert link.state is State.CLOSED
    assert all(session.ended for session in link.ends.values())


def test_a_task_that_only_intersects_ids() -> None:
    link = Link()
    passed = [link.state]
    for line in PSI_RUN:
        link.say(line)
        passed.append(link.state)
    assert passed[-4:] == [State.PSI_MATCHED, State.SPLIT, State.FINISHING, State.CLOSED]
    assert not set(passed) & {State.SPLIT_PROPOSED, State.READY, State.TRAIN, State.TEST}


def test_ids_are_intersected_by_each_key_of_the_plan() -> None:
    keyed = msgspec.structs.replace(ANNOUNCED, id_keys=2)
    link = Link(hello(), welcome(keyed), *SIGNING, *MATCHING)
    passed = [link.state]
    for early in (SPLIT_PLAN, parts(1)):
        link.refuses(early)
    link.say(*SIGNING)
    link.say(*MATCHING)
    passed.append(link.state)
    link.refuses(SIGNING[0])  # a third key
    link.say(parts(6))  # of both keys together
    assert "more than were matched" in link.refuses(parts(1))
    link.say(SPLIT_PLAN, ACCEPTED)
    passed.append(link.state)
    assert passed == [State.PSI, State.SPLIT, State.READY]


def test_the_best_models_are_looked_at_once_after_the_last_round() -> None:
    looked = msgspec.structs.replace(PLAN, final_rows=2)
    told = Line(H, Findings((0.5,)))
    for plan, last in ((PLAN, True), (looked, False)):
        link = Link(*PREPARED[:1], welcome(plan), *PREPARED[2:], *ROUND)
        link.say(round_end(1, last=last), kept(1))
        assert "the round has ended" in link.refuses(begin_test(1))
        assert "nothing was looked at" in link.refuses(told)
    link = Link(*PREPARED[:1], welcome(looked), *PREPARED[2:], *ROUND)
    link.say(round_end(1, last=True), kept(1), begin_test(1))
    link.say(features(0), features(1), end(2), done(0, stepped=False), done(1, stepped=False))
    assert "more than it can have found" in link.refuses(Line(H, Findings((0.5, 0.5))))
    link.say(told)
    for again in (told, begin_test(1)):
        link.refuses(again)
    link.say(finish(1))


def test_the_host_announces_the_parts_of_all_matched_ids() -> None:
    link = Link(hello(), welcome(ANNOUNCED), *SIGNING, *MATCHING)
    assert "before the parts of all ids" in link.refuses(SPLIT_PLAN)
    assert "more than were matched" in link.refuses(parts(4))
    link.say(parts(2))
    assert "more than were matched" in link.refuses(parts(2))
    assert "two bits for each id" in link.refuses(Line(H, SplitParts(1), 2))
    assert "before the parts of all ids" in link.refuses(SPLIT_PLAN)
    link.say(parts(1), SPLIT_PLAN)
    link.refuses(parts(1))
    link.say(ACCEPTED)
    assert link.state is State.READY


def test_nobody_announces_parts_that_the_plan_does_not_tell_of() -> None:
    link = Link(hello(), welcome(), *SIGNING, *MATCHING)
    assert "every party split by itself" in link.refuses(parts(3))
    for purpose in ("psi", "predict"):
        link = Link(hello(purpose=purpose), welcome(ANNOUNCED), *SIGNING, *MATCHING)
        assert "not a task that trains" in link.refuses(parts(3))


def test_a_prediction() -> None:
    link = Link()
    passed = [link.state]
    for line in PREDICT_RUN:
        link.say(line)
        passed.append(link.state)
    assert passed[-1] is State.CLOSED
    assert {State.PREDICT_PROPOSED, State.TEST} <= set(passed)
    assert not set(passed) & {State.SPLIT_PROPOSED, State.TRAIN}


def test_a_prediction_trains_nothing() -> None:
    ready = Link(*PREDICTED, PREDICT_ACCEPTED)
    for line in (begin_train(4), begin_train(1), round_end(3)):
        assert "not a task that trains" in ready.refuses(line)
    assert "not this round" in ready.refuses(begin_test(2))
    assert "not the rounds" in ready.refuses(finish(4))
    split = Link(*PREDICTED[:-1])
    assert "not a task that trains" in split.refuses(SPLIT_PLAN)
    assert "too early" in split.refuses(finish(0))
    more = PredictPlan(bytes(16), 3, "last", 4, bytes(32))
    assert "more rows than were matched" in split.refuses(Line(H, more))
    training = Link(*GREETING, *SIGNING, *MATCHING)
    assert "not a prediction" in training.refuses(PREDICT_PLAN)


def test_a_standing_link() -> None:
    link = Link()
    passed = [link.state]
    for line in SERVE_RUN:
        link.say(line)
        passed.append(link.state)
    assert passed[-1] is State.CLOSED
    assert not set(passed) & {State.SPLIT_PROPOSED, State.READY, State.TEST}


def test_a_standing_link_that_comes_back_needs_no_intersection() -> None:
    back = Link(hello(0, purpose="serve"), welcome_back(0), serve_plan(40))
    assert back.state is State.SERVE_PROPOSED
    for purpose in ("predict", "rehearse", "psi"):
        link = Link(hello(0, purpose=purpose))
        assert "not a task that trains or serves" in link.refuses(welcome_back(0))
    ready = Link(hello(0, purpose="serve"), welcome_back(0))
    assert "no tests" in ready.refuses(begin_test(1))
    assert "not a task that trains" in ready.refuses(begin_train(1))


def test_requests_and_answers_fit_together() -> None:
    link = Link(*SERVED)
    assert "nothing was asked" in link.refuses(answered(0))
    assert "not the next request" in link.refuses(asked(1))
    short = Line(H, asked(0).message, 4)
    assert "one number for each row" in link.refuses(short)
    for number in range(SERVE_WINDOW):
        link.say(asked(number))
    assert "beyond its window" in link.refuses(asked(SERVE_WINDOW))
    assert "not the request that is next" in link.refuses(answered(1))
    assert "other rows than were asked for" in link.refuses(answered(0, 3))
    with_rows = msgspec.structs.replace(answered(0).message, refused="limit")
    assert "a refusal with rows" in link.refuses(Line(C, with_rows, 24))
    without = msgspec.structs.replace(answered(0).message, tensors=())
    assert "row counts" in link.refuses(Line(C, without))
    lying = msgspec.structs.replace(answered(0).message, tensors=(tensor(3, 2),))
    assert "row counts" in link.refuses(Line(C, lying, 24))
    assert "shapes that do not make its size" in link.refuses(Line(C, answered(0).message, 20))
    link.say(answered(0), asked(SERVE_WINDOW))


def test_a_further_version_is_asked_for_once_at_a_time() -> None:
    link = Link(*SERVED)
    assert "no version was asked for" in link.refuses(SERVE_ACCEPTED)
    link.say(serve_plan(3), asked(0))
    assert "before the last one was answered" in link.refuses(serve_plan(3))
    link.say(answered(0), SERVE_REFUSED, serve_plan(3), SERVE_ACCEPTED, asked(1))
    assert link.state is State.SERVING
    first = Link(*SERVED[:-1])
    assert "before anything is served" in first.refuses(SERVE_REFUSED)


def test_a_standing_link_serves_what_was_matched() -> None:
    split = Link(*SERVED[:-2])
    assert "more rows than were matched" in split.refuses(serve_plan(4))
    assert "not a prediction" in split.refuses(PREDICT_PLAN)
    training = Link(*GREETING, *SIGNING, *MATCHING)
    assert "not a standing link" in training.refuses(serve_plan(1))


def test_a_rehearsal_trains_and_keeps_nothing() -> None:
    rehearsed = (hello(purpose="rehearse"), welcome(), *SIGNING, *MATCHING, SPLIT_PLAN, ACCEPTED)
    link = Link(*rehearsed, *ROUND)
    assert "not a task that trains" in link.refuses(round_end(1))
    link.say(*TEST, finish(1))
    assert link.state is State.FINISHING


def test_samples_cover_every_message() -> None:
    assert set(SAMPLES) == set(MESSAGE_TYPES)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", [state for state in State if state not in ENDED])
def test_what_the_table_does_not_list_is_refused(state: State, role: Role) -> None:
    link = link_in(state)
    for line in lines_of(state, role):
        why = link.refuses(line)
        assert (
            why == f"{type(line.message).__name__} from the {role} is out of turn in state {state}"
        )
    assert link.state is state


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", sorted(ENDED))
def test_after_the_end_nothing_is_sent_and_late_mail_is_ignored(state: State, role: Role) -> None:
    link = link_in(state)
    before = view(link.ends[role])
    for kind in MESSAGE_TYPES:
        _, message, size = SAMPLES[kind]
        with pytest.raises(LocalProtocolError, match="out of turn"):
            link.ends[role].send(message, size)
        link.ends[role].admit(message, size)
        assert not link.ends[role].receive(message, size)
    link.ends[role].lost()
    assert view(link.ends[role]) == before


@pytest.mark.parametrize("greeting", [(), GREETING], ids=["before a plan", "with a plan"])
def test_late_mail_has_no_more_room_than_honest_mail(greeting: tuple[Line, ...]) -> None:
    link = Link(*greeting, Line(H, ABORT))
    for session in link.ends.values():
        session.admit(Bye(), 1 << 20)
        with pytest.raises(RemoteProtocolError, match="late"):
            session.admit(Bye(), (1 << 20) + 1)


def test_late_mail_may_be_a_whole_batch() -> None:
    plan = Plan(host="bank", collaborators=("shop",), max_batch_bytes=1 << 30)
    link = Link(hello(), welcome(plan), Line(H, ABORT))
    link.ends[H].admit(Bye(), 1 << 30)
    with pytest.raises(RemoteProtocolError, match="late"):
        link.ends[H].admit(Bye(), (1 << 30) + 1)


@pytest.mark.parametrize("state", [state for state in State if state not in ENDED])
def test_each_role_may_abort_every_live_state(state: State) -> None:
    for role in Role:
        link = link_in(state)
        link.say(Line(role, ABORT))
        assert link.state is State.FAILED


@pytest.mark.parametrize("state", [state for state in State if state not in ENDED])
def test_crossing_aborts_end_both(state: State) -> None:
    link = link_in(state)
    for session in link.ends.values():
        session.send(ABORT)
    for session in link.ends.values():
        assert not session.receive(ABORT)
    assert link.state is State.FAILED


@pytest.mark.parametrize("state", [state for state in State if state not in ENDED])
def test_a_lost_peer_fails_every_live_state(state: State) -> None:
    link = link_in(state)
    for session in link.ends.values():
        session.lost()
    assert link.state is State.FAILED


def test_abort_needs_no_credit() -> None:
    link = Link(*PREPARED, begin_train(1), features(0), features(1))
    assert link.ends[C].batch_window == 0
    link.say(Line(C, ABORT))
    assert link.state is State.FAILED


def test_bye_and_abort_may_cross() -> None:
    link = link_in(State.FINISHING)
    link.ends[C].send(Bye())
    link.ends[H].send(ABORT)
    assert not link.ends[C].receive(ABORT)
    assert not link.ends[H].receive(Bye())
    assert (link.ends[C].state, link.ends[H].state) == (State.CLOSED, State.FAILED)


@pytest.mark.parametrize("state", [state for state in State if state not in ENDED])
def test_waiting_changes_nothing(state: State) -> None:
    link = link_in(state)
    before = view(link.ends[C])
    link.say(WAITING, WAITING)
    assert view(link.ends[C]) == before


# Windows and credit


def test_the_psi_window_opens_and_closes() -> None:
    link = Link(*GREETING, KEY, Line(H, PsiBegin(20)))
    for taken in range(PSI_WINDOW):
        assert link.ends[H].psi_window == PSI_WINDOW - taken
        link.say(blinded(1))
    assert "beyond its window" in link.refuses(blinded(1))
    link.say(signed(1), blinded(1))
    assert "beyond its window" in link.refuses(blinded(1))


def test_one_batch_before_a_plan_is_known() -> None:
    assert Session(C).batch_window == 1


@pytest.mark.parametrize(
    ("begin", "stepped"),
    [((begin_train(1),), True), ((*ROUND, begin_test(1)), False)],
    ids=["train", "test"],
)
def test_credit_comes_back_with_batch_done(begin: tuple[Line, ...], stepped: bool) -> None:
    link = Link(*PREPARED, *begin)
    assert link.ends[C].batch_window == PLAN.credit
    link.say(features(0), features(1))
    assert "beyond its credit" in link.refuses(features(2))
    link.say(done(0, stepped=stepped), features(2))
    assert "beyond its credit" in link.refuses(features(3))


def test_gradients_alone_give_no_credit() -> None:
    link = Link(*PREPARED, begin_train(1), features(0), features(1), gradients(0))
    assert "beyond its credit" in link.refuses(features(2))


def test_gradients_that_are_the_last_of_their_batch_end_it() -> None:
    link = Link(*PREPARED, begin_train(1), features(0), features(1))
    link.say(gradients(0, tensor(2, 3)), gradients(0, tensor(2, 3), last=True), features(2))
    assert "beyond its credit" in link.refuses(features(3))
    assert "not the batch that is next" in link.refuses(gradients(0, tensor(2, 3)))
    assert "not the batch that is next" in link.refuses(done(0))
    link.say(gradients(1, last=True), end(3), gradients(2, last=True))
    assert link.state is State.READY


def test_steps_ahead_are_what_was_agreed_and_no_more() -> None:
    for steps in (0, 1, 3):
        plan = Plan(host="bank", collaborators=("shop",), max_staleness=steps)
        link = Link(hello(), welcome(plan), *PREPARED[2:], begin_train(1, steps))
        link.say(*(features(batch) for batch in range(steps + 1)))
        assert "beyond its credit" in link.refuses(features(steps + 1))
        link.say(done(0), features(steps + 1))


def test_a_frozen_party_goes_ahead_by_the_plans_credit() -> None:
    plan = Plan(host="bank", collaborators=("shop",), credit=5)
    link = Link(hello(trainable=False), welcome(plan), *PREPARED[2:], begin_train(1, 0))
    link.say(*(features(batch) for batch in range(5)))
    assert "beyond its credit" in link.refuses(features(5))


def test_large_batches_do_not_go_ahead() -> None:
    plan = Plan(host="bank", collaborators=("shop",))
    half = tensor(2, AHEAD_BYTES // 16)
    link = Link(hello(trainable=False), welcome(plan), *PREPARED[2:], begin_train(1, 0))
    link.say(features(0, half), features(1, half))
    assert "beyond its credit" in link.refuses(features(2, half))
    link.say(done(0), features(2, half))


CHOOSING = Plan(host="bank", collaborators=("shop",), max_staleness="auto")


def test_staleness_that_is_chosen_holds_from_its_batch_on() -> None:
    link = Link(hello(), welcome(CHOOSING), *PREPARED[2:], begin_train(1, 0), features(0))
    assert "beyond its credit" in link.refuses(features(1))
    link.say(done(0, staleness=2), features(1), features(2), features(3))
    assert [end.staleness for end in link.ends.values()] == [2, 2]
    assert "less staleness" in link.refuses(done(1, staleness=1))
    link.say(end(4), done(1), done(2), done(3), round_end(1), kept(1), begin_train(2, 2))
    assert link.ends[H].batch_window == 3


def test_staleness_cannot_be_chosen_where_it_is_agreed_or_in_a_test() -> None:
    link = Link(*PREPARED, begin_train(1), features(0))
    assert "no staleness to choose" in link.refuses(done(0, staleness=1))
    assert "another staleness than agreed" in Link(*PREPARED).refuses(begin_train(1, 0))
    link = Link(hello(), welcome(CHOOSING), *PREPARED[2:], begin_train(1, 0), end(0))
    link.say(begin_test(1), features(0))
    assert "no staleness to choose" in link.refuses(done(0, stepped=False, staleness=1))


def test_a_round_starts_with_fresh_numbers() -> None:
    link = Link(*PREPARED, *ROUND, round_end(1), kept(1), begin_train(2))
    assert "not this round" in link.refuses(features(0))
    link.say(features(0, number=2), done(0, number=2), end(1, number=2))
    assert link.state is State.READY
    assert "not the next round" in link.refuses(begin_train(2))
    link.say(round_end(2), kept(2), begin_train(3))


def test_what_was_begun_ends_before_anything_else_begins() -> None:
    for begun in (ROUND, (*ROUND, *TEST)):
        link = Link(*PREPARED, *begun)
        assert "the round before has not ended" in link.refuses(begin_train(2))
        assert "the last round has not ended" in link.refuses(finish(1))
        link.say(round_end(1), kept(1))
        link.refuses(begin_test(1))
        link.say(begin_train(2))


def test_within_a_round_that_goes_on_nothing_else_begins() -> None:
    mark = Mark(3, 2)
    held = msgspec.structs.replace(hello(3).message, held=Held(bytes(16), (mark,)))
    back = msgspec.structs.replace(welcome_back(3, IN_LEGS).message, mark=mark)
    link = Link(Line(C, held), Line(H, back))
    assert "the round before has not ended" in link.refuses(begin_train(5))
    assert "the last round has not ended" in link.refuses(finish(4))


def test_no_test_of_a_round_that_had_ended() -> None:
    assert "the round has ended" in Link(*RESUMED).refuses(begin_test(3))


def test_legs_without_agreed_batches_are_refused() -> None:
    # Each leg would be the whole round again.
    legs = msgspec.structs.replace(PLAN, checkpoint_batches=1, batch_size=0)
    assert "no batch_size" in Link(hello()).refuses(welcome(legs))
    assert "no batch_size" in Link(hello(3)).refuses(welcome_back(3, legs))
    Link(hello(), welcome(msgspec.structs.replace(legs, batch_size=1)))


def test_batches_of_a_test_are_no_batches_trained() -> None:
    two = [features(0), done(0), features(1), end(2), done(1)]
    tested = (
        [features(number) for number in range(4)],
        [done(number, stepped=False) for number in range(4)],
    )
    link = Link(hello(), welcome(IN_LEGS), *PREPARED[2:], begin_train(1), *two, begin_test(1))
    for sent, dealt in zip(*tested, strict=True):
        link.say(sent, dealt)
    link.say(end(4))
    assert "no checkpoint is due" in link.refuses(keep(1, 4))
    link.say(keep(1, 2), kept(1, 2))
    assert "not the next" in link.refuses(go_on(1, 4))
    link.say(go_on(1, 2))


def test_a_round_is_tested_once() -> None:
    link = Link(*PREPARED, *ROUND, *TEST)
    assert "second time" in link.refuses(begin_test(1))
    link.say(round_end(1), kept(1))
    assert "second time" in link.refuses(begin_test(1))
    link.say(begin_train(2), end(0, number=2), begin_test(2), end(0, number=2))
    assert "second time" in link.refuses(begin_test(2))


def test_a_leg_more_is_no_other_round() -> None:
    two = [features(0), done(0), features(1), end(2), done(1)]
    tested = (begin_test(1), features(0), done(0, stepped=False), features(1), end(2))
    link = Link(hello(), welcome(IN_LEGS), *PREPARED[2:], begin_train(1), *two, *tested)
    link.say(done(1, stepped=False), keep(1, 2), kept(1, 2), go_on(1, 2), end(2))
    assert "second time" in link.refuses(begin_test(1))


def test_rows_are_predicted_once() -> None:
    link = Link(*PREDICT_RUN[:-2])
    assert "second time" in link.refuses(begin_test(3))


def test_a_masked_sum_is_of_single_tensors_of_integers() -> None:
    def said(layout: Any, *specs: TensorSpec) -> Line:
        size = sum(spec.nbytes for spec in specs)
        return Line(C, Features(1, 0, 2, layout, specs), size)

    part = tensor(2, 3, dtype="int64")
    link = Link(hello(), welcome(SUMS), *PREPARED[2:], begin_train(1))
    for line in (
        said("dict", part),
        said("dict", part, tensor(2, name="b")),
        said("tuple", tensor(2, 3, name="0", dtype="int64")),
        said("tensor", tensor(2, 3)),
        said("tensor", tensor(2, 3, dtype="int32")),
    ):
        assert "not one masked tensor" in link.refuses(line)
    link.say(said("tensor", part), gradients(0, tensor(2, 3)), done(0))
    link.say(seen(0), seen_by_others(0), end(1), begin_test(1))
    assert "not one masked tensor" in link.refuses(said("tensor", tensor(2, 3)))


def test_gradients_of_a_sum_are_compared_batch_by_batch() -> None:
    link = Link(hello(), welcome(SUMS), *PREPARED[2:])
    link.say(*SUMMED[:2])
    assert "not the batch that is next" in link.refuses(seen(0))  # nothing has come yet
    link.say(SUMMED[2])
    assert "not the batch that is next" in link.refuses(seen(1))
    assert "not the batch that is next" in link.refuses(seen_by_others(0))
    assert "not this round" in link.refuses(seen(0, number=2))
    assert "not one tag" in link.refuses(seen(0, others=2))
    assert "before all gradients were compared" in link.refuses(end(1))
    link.say(*SUMMED[3:5])
    assert "not the batch that is next" in link.refuses(seen(0))
    assert "not one tag" in link.refuses(seen_by_others(0, others=0))
    link.say(*SUMMED[5:-2])
    assert "before all gradients were compared" in link.refuses(end(2))
    link.say(*SUMMED[-2:])
    assert link.state is State.READY


def test_other_gradients_are_not_compared() -> None:
    """Those of a party of its own, those that a frozen party does not get, and tests."""
    link = Link(*PREPARED, *ROUND[:4])
    assert "no masked sum that trains" in link.refuses(seen(0, others=0))
    frozen = Link(hello(trainable=False), welcome(SUMS), *PREPARED[2:], begin_train(1))
    frozen.say(masked(0), done(0, stepped=False))
    assert "no masked sum that trains" in frozen.refuses(seen(0))
    frozen.say(end(1))
    assert frozen.state is State.READY


@pytest.mark.parametrize("phase", [(begin_train(1),), (*ROUND, begin_test(1))], ids=str)
def test_no_batch_at_all_completes_at_once(phase: tuple[Line, ...]) -> None:
    link = Link(*PREPARED, *phase, end(0))
    assert link.state is State.READY


def test_the_last_batch_may_be_done_before_the_end_is_announced() -> None:
    link = Link(*PREPARED, begin_train(1), features(0), done(0))
    before = link.state
    link.say(end(1))
    assert (before, link.state) == (State.TRAIN, State.READY)


def test_draining_lasts_until_every_batch_is_done() -> None:
    link = Link(*PREPARED, begin_train(1), features(0), features(1), end(2), done(0))
    before = link.state
    link.say(done(1))
    assert (before, link.state) == (State.TRAIN_DRAINING, State.READY)


def test_training_may_leave_a_batch_without_a_step() -> None:
    link = Link(*PREPARED, begin_train(1), features(0), features(1), done(0, stepped=False))
    link.say(end(2), done(1, stepped=False))
    assert link.state is State.READY


def test_every_round_ends_once() -> None:
    link = Link(*PREPARED, *ROUND, *TEST, round_end(1), kept(1))
    assert "second time" in link.refuses(round_end(1))
    link.say(begin_train(2), end(0, number=2), begin_test(2), end(0, number=2))
    assert "not this round" in link.refuses(round_end(1))
    link.say(round_end(2, best=True), kept(2))
    assert "second time" in link.refuses(round_end(2))
    link.say(finish(2), BYE)
    assert link.state is State.CLOSED


def test_nobody_goes_on_before_the_checkpoint_is_held() -> None:
    link = Link(*PREPARED, *ROUND, round_end(1))
    assert link.state is State.CHECKPOINT
    for line in (begin_train(2), begin_test(1), finish(1), round_end(1)):
        assert "out of turn" in link.refuses(line)
    link.say(kept(1))
    link.say(begin_train(2))


def test_a_run_goes_on_after_the_round_whose_checkpoint_all_hold() -> None:
    link = Link(*RESUMED)
    for line in (begin_train(3), begin_train(5), begin_test(4), finish(2)):
        assert "not " in link.refuses(line)
    assert "second time" in link.refuses(round_end(3))
    link.say(begin_train(4), features(0, number=4), gradients(0, number=4), done(0, number=4))
    link.say(end(1, number=4), round_end(4), kept(4), finish(4), BYE)
    assert link.state is State.CLOSED


def test_a_round_in_legs_goes_on_once_its_checkpoint_is_held() -> None:
    two = [features(0), done(0), features(1), end(2), done(1)]
    link = Link(hello(), welcome(IN_LEGS), *PREPARED[2:], begin_train(1), *two)
    for line in (keep(1, 1), keep(1, 4), keep(2, 2)):
        assert "no checkpoint" in (why := link.refuses(line)) or "not this round" in why
    link.say(keep(1, 2))
    assert "not the checkpoint asked for" in link.refuses(kept(1, 0))
    link.say(kept(1, 2))
    assert "no checkpoint is due" in link.refuses(keep(1, 2))
    assert "not the next" in link.refuses(go_on(1, 4))
    assert "not the next" in link.refuses(begin_train(1))
    link.say(go_on(1, 2))
    assert "not the next batch" in link.refuses(features(0))
    link.say(features(2), end(3), done(2))
    assert "no checkpoint is due" in link.refuses(keep(1, 3))
    link.say(round_end(1), kept(1))


def test_a_leg_needs_its_checkpoint() -> None:
    two = [features(0), done(0), features(1), end(2), done(1)]
    link = Link(hello(), welcome(IN_LEGS), *PREPARED[2:], begin_train(1), *two)
    assert "not the next" in link.refuses(go_on(1, 2))
    plain = Link(*PREPARED, begin_train(1), *two)
    assert "no checkpoint is due" in plain.refuses(keep(1, 2))


def test_a_run_goes_on_within_a_round() -> None:
    mark = Mark(3, 2)
    held = msgspec.structs.replace(hello(3).message, held=Held(bytes(16), (Mark(3), mark)))
    back = msgspec.structs.replace(welcome_back(3, IN_LEGS).message, mark=mark)
    link = Link(Line(C, held), Line(H, back))
    for line in (begin_train(4), go_on(4, 4), go_on(5, 2), go_on(3, 2), finish(3)):
        assert "not the" in link.refuses(line)
    link.say(go_on(4, 2), features(2, number=4), end(3, number=4), done(2, number=4))
    link.say(round_end(4), kept(4), finish(4), BYE)


def test_a_run_goes_on_from_its_split() -> None:
    link = Link(hello(0), welcome_back(0), begin_train(1))
    assert link.state is State.TRAIN


def test_a_run_that_had_ended_only_finishes() -> None:
    assert Link(*RESUMED, finish(3), BYE).state is State.CLOSED


def test_a_task_may_be_complete_without_a_round() -> None:
    link = Link(*PREPARED)
    assert "not the rounds" in link.refuses(finish(1))
    link.say(finish(0), BYE)
    assert link.state is State.CLOSED


def test_points_are_narrower_than_signatures() -> None:
    plan = Plan(host="bank", collaborators=("shop",), psi_protocol="ecdh")
    link = Link(hello(), welcome(plan), KEY, BEGIN)
    assert "another width than the plan's" in link.refuses(blinded(2, 256))
    link.say(blinded(2, 32))


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_the_plan_says_how_wide_the_values_are(bits: Literal[2048, 3072, 4096]) -> None:
    plan = Plan(host="bank", collaborators=("shop",), psi_bits=bits)
    link = Link(hello(), welcome(plan), KEY, BEGIN)
    others = {width for wide in (256, 384, 512) for width in (wide - 1, wide, wide + 1)}
    for width in others - {bits // 8}:
        assert "another width than the plan's" in link.refuses(blinded(2, width))
    link.say(blinded(2, bits // 8))
    for width in others - {bits // 8}:
        assert "another width than the plan's" in link.refuses(signed(2, width))
    link.say(signed(2, bits // 8))


def test_a_frozen_party_gets_no_gradients() -> None:
    link = Link(hello(trainable=False), *PREPARED[1:], begin_train(1), features(0))
    assert "frozen" in link.refuses(gradients(0, tensor(2, 3)))
    assert "frozen" in link.refuses(gradients(0))
    link.say(done(0), end(1))
    assert link.state is State.READY


def test_gradients_may_leave_tensors_out() -> None:
    both = tensor(2, 3, name="a"), tensor(2, name="b", dtype="int64")
    link = Link(*PREPARED, begin_train(1), features(0, *both))
    link.say(gradients(0, both[0]), done(0))


def test_tensors_without_items_may_travel() -> None:
    empty = tensor(2, 0)
    link = Link(*PREPARED, begin_train(1), features(0, empty), gradients(0, empty), done(0))
    assert link.state is State.TRAIN


# One line for every guard that is neither a window nor a credit: what came before, what is
# refused, why.

IN_PSI = (*GREETING, KEY)
BEGUN = (*IN_PSI, BEGIN)
SIGNED = (*GREETING, *SIGNING, UNBLINDED)
TAGGED = (*SIGNED, tags(4))
TRAINING = (*PREPARED, begin_train(1))
WITH_BATCH = (*TRAINING, features(0))
TRAINED = (*PREPARED, *ROUND)
TESTING = (*TRAINED, begin_test(1))
CHUNK = 1 << 20
WIDE = Plan(host="bank", collaborators=("shop",))
NEGATIVE = Features(1, -1, 2, "tensor", (tensor(2, 3),))

GUARDS: dict[str, tuple[tuple[Line, ...], Line, str]] = {
    "a key of no bytes": (GREETING, Line(C, PsiKey(4)), "key has a wrong size"),
    "a key too large": (GREETING, Line(C, PsiKey(4), (1 << 14) + 1), "key has a wrong size"),
    "a key for no ids": (GREETING, Line(C, PsiKey(0), 500), "out of range"),
    "a key for too many ids": (GREETING, Line(C, PsiKey(101), 500), "out of range"),
    "another key than a new one asked for": (IN_PSI, RENEW, "its key is a new one"),
    "an old key after a new one was asked for": (
        (*GREETING, OLD_KEY, RENEW),
        OLD_KEY,
        "an old key where a new one is due",
    ),
    "a new key asked for with payload": (
        (*GREETING, OLD_KEY),
        Line(H, RENEW.message, 1),
        "no payload",
    ),
    "a request for no ids": (IN_PSI, Line(H, PsiBegin(0)), "out of range"),
    "more done than asked": (IN_PSI, Line(H, PsiBegin(5, 6)), "more done than there are"),
    "tags once more": (IN_PSI, Line(H, PsiBegin(5, 5, again=True)), "no stores to send again"),
    "a request for too many ids": (IN_PSI, Line(H, PsiBegin(101)), "out of range"),
    "a request with payload": (IN_PSI, Line(H, PsiBegin(5), 1), "no payload"),
    "no blinded value": (BEGUN, Line(H, PsiBlinded(0)), "no value"),
    "no blinded value, with bytes": (BEGUN, Line(H, PsiBlinded(0), WIDTH), "no value"),
    "blinded values of no width": (BEGUN, Line(H, PsiBlinded(2)), "another width"),
    "blinded values of unequal width": (BEGUN, Line(H, PsiBlinded(2), WIDTH + 1), "another width"),
    "blinded values of another width, at first": (BEGUN, blinded(1, WIDTH // 2), "another width"),
    "blinded values of another width": (
        (*BEGUN, blinded(1)),
        blinded(1, WIDTH // 2),
        "another width",
    ),
    "a large chunk of blinded values": (BEGUN, blinded(1, CHUNK + 1), "more than 1 MiB"),
    "blinded values beyond the announced": (BEGUN, blinded(6), "more than announced"),
    "blinded values beyond the announced, in parts": (
        (*BEGUN, blinded(3)),
        blinded(3),
        "more than announced",
    ),
    "signatures of nothing": (BEGUN, signed(1), "nothing waits"),
    "signatures a second time": ((*BEGUN, blinded(3), signed(3)), signed(3), "nothing waits"),
    "fewer signatures": ((*BEGUN, blinded(3)), signed(2), "not as many"),
    "more signatures": ((*BEGUN, blinded(3), blinded(2)), signed(5), "not as many"),
    "signatures out of order": ((*BEGUN, blinded(3), blinded(2)), signed(2), "not as many"),
    "signatures of another width": ((*BEGUN, blinded(3)), signed(3, WIDTH + 1), "another width"),
    "as many bytes of more signatures": (
        (*BEGUN, blinded(2)),
        Line(C, PsiSigned(1), 2 * WIDTH),
        "another width",
    ),
    "no signature": ((*BEGUN, blinded(3)), Line(C, PsiSigned(0)), "no value"),
    "a large chunk of signatures": ((*BEGUN, blinded(3)), signed(3, CHUNK), "more than 1 MiB"),
    "all unblinded before anything was asked": (BEGUN, UNBLINDED, "before everything was signed"),
    "all unblinded before everything was asked": (
        (*BEGUN, blinded(3), signed(3)),
        UNBLINDED,
        "before everything was signed",
    ),
    "all unblinded before everything was signed": (
        (*BEGUN, blinded(3), signed(3), blinded(2)),
        UNBLINDED,
        "before everything was signed",
    ),
    "as many tags made as before": (
        (*SIGNED, Line(C, PsiTagged(2))),
        Line(C, PsiTagged(2)),
        "no progress",
    ),
    "no tag made": (SIGNED, Line(C, PsiTagged(0)), "no progress"),
    "more tags made than ids": (SIGNED, Line(C, PsiTagged(5)), "too much"),
    "no tag": (SIGNED, tags(0), "no value"),
    "tags of another size": (SIGNED, Line(C, PsiTags(1), 17), "not 16 bytes each"),
    "more tags than announced": (SIGNED, tags(5), "more than announced"),
    "more tags than announced, in parts": ((*SIGNED, tags(3)), tags(2), "more than announced"),
    "a large chunk of tags": (SIGNED, tags(CHUNK // 16 + 1), "more than 1 MiB"),
    "matches before all tags": ((*SIGNED, tags(3)), matched(1, last=False), "before all tags"),
    "more matches than ids": (TAGGED, matched(5, last=True), "more than there can be"),
    "more matches than ids, in parts": (
        (*TAGGED, matched(3, last=False)),
        matched(2, last=True),
        "more than there can be",
    ),
    "no match, and more to come": (TAGGED, matched(0, last=False), "no value"),
    "matches of another size": (TAGGED, Line(H, PsiMatched(1, True), 15), "not 16 bytes each"),
    "a large chunk of matches": (TAGGED, matched(CHUNK // 16 + 1, last=True), "more than 1 MiB"),
    "a round that is not the first": (PREPARED, begin_train(2), "not the next round"),
    "round 0": (PREPARED, begin_train(0), "not the next round"),
    "a round again": ((*PREPARED, *ROUND), begin_train(1), "not the next round"),
    "a round with payload": (PREPARED, begin_train(1)._replace(size=1), "no payload"),
    "a test before any round": (PREPARED, begin_test(1), "not this round"),
    "a test of the next round": ((*PREPARED, *ROUND), begin_test(2), "not this round"),
    "a test with payload": ((*PREPARED, *ROUND), Line(H, BeginTest(1), 1), "no payload"),
    "the end of a round to come": (TRAINED, round_end(2), "not this"),
    "the end of a round gone by": (
        (*TRAINED, round_end(1), kept(1), begin_train(2), end(0, number=2)),
        round_end(1),
        "not this",
    ),
    "the end of a round before any": (PREPARED, round_end(1), "not this"),
    "the end of a round, with payload": (TRAINED, round_end(1)._replace(size=1), "no payload"),
    "the end of a round a second time": (
        (*TRAINED, round_end(1), kept(1)),
        round_end(1),
        "second time",
    ),
    "the end of a round a second time, after a test": (
        (*TRAINED, *TEST, round_end(1), kept(1)),
        round_end(1, best=True),
        "second time",
    ),
    "a checkpoint of another round": ((*TRAINED, round_end(1)), kept(2), "asked for"),
    "a checkpoint with payload": (
        (*TRAINED, round_end(1)),
        kept(1)._replace(size=1),
        "no payload",
    ),
    "going on from what nobody held": ((hello(),), welcome_back(0), "not said to be held"),
    "going on from another round": ((hello(2, 3),), welcome_back(1), "not said to be held"),
    "going on with payload": ((hello(3),), welcome_back(3)._replace(size=1), "no payload"),
    "going on, where ids are only intersected": (
        (hello(3, purpose="psi"),),
        welcome_back(3),
        "not a task that trains",
    ),
    "a split, where ids are only intersected": (INTERSECTED, SPLIT_PLAN, "not a task that trains"),
    "a finish before the split": ((*TAGGED, matched(1, last=True)), finish(0), "too early"),
    "a finish after rounds that never were": (PREPARED, finish(1), "not the rounds"),
    "a finish after rounds that never were, before the split": (
        (*TAGGED, matched(1, last=True)),
        finish(1),
        "not the rounds",
    ),
    "a finish after rounds, where ids are only intersected": (
        INTERSECTED,
        finish(1),
        "not the rounds",
    ),
    "a finish after fewer rounds": (TRAINED, finish(0), "not the rounds"),
    "a finish after more rounds": (TRAINED, finish(2), "not the rounds"),
    "features of another round": (TRAINING, features(0, number=2), "not this round"),
    "features of a batch to come": (TRAINING, features(1), "not the next batch"),
    "features of a batch again": (WITH_BATCH, features(0), "not the next batch"),
    "features of a negative batch": (TRAINING, Line(C, NEGATIVE, 24), "not the next batch"),
    "features of no tensor": (
        TRAINING,
        Line(C, Features(1, 0, 0, "dict", ())),
        "no tensor",
    ),
    "features above max_batch_bytes": (TRAINING, features(0, tensor(2, 9)), "max_batch_bytes"),
    "fewer bytes than the shapes make": (TRAINING, features(0)._replace(size=23), "shapes that"),
    "more bytes than the shapes make": (TRAINING, features(0)._replace(size=25), "shapes that"),
    "shapes beyond any memory": (
        TRAINING,
        features(0, tensor(*[2**40] * 16))._replace(size=24),
        "shapes that",
    ),
    "a name twice": (TRAINING, features(0, tensor(2), tensor(2)), "name twice"),
    "another row count than it says": (TRAINING, features(0, rows=3), "other row counts"),
    "unequal row counts": (
        TRAINING,
        features(0, tensor(2), tensor(3, name="b")),
        "other row counts",
    ),
    "gradients of another round": (WITH_BATCH, gradients(0, number=2), "not this round"),
    "gradients of no batch": (TRAINING, gradients(0), "no batch waits"),
    "gradients of a batch to come": (WITH_BATCH, gradients(1), "not the batch that is next"),
    "gradients of a negative batch": (WITH_BATCH, gradients(-1), "not the batch that is next"),
    "gradients of a batch that is done": (
        (*WITH_BATCH, done(0), features(1)),
        gradients(0),
        "not the batch that is next",
    ),
    "gradients a third time": (
        (*WITH_BATCH, gradients(0), gradients(0)),
        gradients(0),
        "more than twice",
    ),
    "gradients a third time, as the last": (
        (*WITH_BATCH, gradients(0), gradients(0)),
        gradients(0, last=True),
        "more than twice",
    ),
    "gradients above max_batch_bytes": (
        WITH_BATCH,
        gradients(0, tensor(2, 9)),
        "max_batch_bytes",
    ),
    "gradients of other bytes": (
        WITH_BATCH,
        Line(H, Gradients(1, 0, (tensor(2, 3),)), 20),
        "shapes that",
    ),
    "gradients of one tensor twice": (
        WITH_BATCH,
        gradients(0, tensor(2, 3), tensor(2, 3)),
        "name twice",
    ),
    "gradients of a tensor unknown": (
        WITH_BATCH,
        gradients(0, tensor(2, 3, name="b")),
        "not tensors of that batch",
    ),
    "gradients of another shape": (WITH_BATCH, gradients(0, tensor(3, 2)), "not tensors of"),
    "gradients of another dtype": (
        WITH_BATCH,
        gradients(0, tensor(2, 3, dtype="float16")),
        "not tensors of that batch",
    ),
    "gradients of integers": (
        (*TRAINING, features(0, tensor(2, dtype="int64"))),
        gradients(0, tensor(2, dtype="int64")),
        "not tensors of that batch",
    ),
    "a batch of another round done": (WITH_BATCH, done(0, number=2), "not this round"),
    "a batch done that never came": (TRAINING, done(0), "no batch waits"),
    "a batch to come done": (WITH_BATCH, done(1), "not the batch that is next"),
    "a batch done twice": ((*WITH_BATCH, done(0)), done(0), "no batch waits"),
    "a batch done twice, another waiting": (
        (*WITH_BATCH, done(0), features(1)),
        done(0),
        "not the batch that is next",
    ),
    "a batch done with payload": (WITH_BATCH, done(0)._replace(size=1), "no payload"),
    "a batch done with payload, in a test": (
        (*TESTING, features(0)),
        done(0, stepped=False)._replace(size=1),
        "no payload",
    ),
    "a step in a test": ((*TESTING, features(0)), done(0), "a step in a test"),
    "a step in a test that drains": (
        (*TESTING, features(0), features(1), end(2), done(0, stepped=False)),
        done(1),
        "a step in a test",
    ),
    "more batches than came": (WITH_BATCH, end(2), "not the number of batches"),
    "fewer batches than came": (WITH_BATCH, end(0), "not the number of batches"),
    "the end of another round's features": (WITH_BATCH, end(1, number=2), "not this round"),
    "the end of features, with payload": (WITH_BATCH, end(1)._replace(size=1), "no payload"),
    "a test's gradients": ((*TESTING, features(0)), gradients(0, tensor(2, 3)), "out of turn"),
    "a test's features of another round": (TESTING, features(0, number=2), "not this round"),
}
GUARDS |= {
    f"{type(line.message).__name__} with payload": (before, line._replace(size=1), "no payload")
    for before, line in (
        ((), hello()),
        ((), WAITING),
        ((), Line(H, ABORT)),
        ((), Line(C, ABORT)),
        ((hello(),), welcome()),
        ((*TAGGED, matched(1, last=True)), SPLIT_PLAN),
        ((*TAGGED, matched(1, last=True), SPLIT_PLAN), ACCEPTED),
        (TRAINED, FINISH),
        ((*TRAINED, round_end(1), kept(1), FINISH), BYE),
    )
}


@pytest.mark.parametrize(("before", "line", "why"), GUARDS.values(), ids=GUARDS.keys())
def test_guard(before: tuple[Line, ...], line: Line, why: str) -> None:
    link = Link(*before)
    assert why in link.refuses(line)


def test_limits_themselves_are_allowed() -> None:
    link = Link(hello(), welcome(WIDE), Line(C, PsiKey(WIDE.max_peer_ids), 1 << 14))
    link.say(Line(H, PsiBegin(4096)), blinded(4096), signed(4096))
    link.say(UNBLINDED, tags(CHUNK // 16))
    assert blinded(4096).size == CHUNK


def test_a_batch_of_exactly_max_batch_bytes() -> None:
    link = Link(*TRAINING, features(0, tensor(2, 8)), gradients(0, tensor(2, 8)))
    assert features(0, tensor(2, 8)).size == PLAN.max_batch_bytes
    assert link.state is State.TRAIN


def test_all_ids_may_match_and_none() -> None:
    link = Link(*TAGGED, matched(4, last=True))
    assert link.state is State.SPLIT
    link = Link(*TAGGED, matched(4, last=False), matched(0, last=True))
    assert link.state is State.SPLIT
    link = Link(*TAGGED, matched(0, last=True))
    assert link.state is State.SPLIT


def test_errors_never_quote_what_the_peer_wrote() -> None:
    secret = "4929-0000-0000-0000"
    session = link_in(State.TRAIN).ends[H]
    with pytest.raises(RemoteProtocolError) as refused:
        session.receive(Hello((1,), "train", bytes(32), secret, bytes(16), True))
    assert secret not in str(refused.value)
    with pytest.raises(RemoteProtocolError) as refused:
        session.receive(Features(1, 9, 2, "dict", (tensor(2, name=secret),)), 8)
    assert secret not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_message_of_the_wrong_end_is_refused_at_once() -> None:
    with pytest.raises(RemoteProtocolError, match="from the host is out of turn"):
        Session(C).receive(Hello((1,), "train", bytes(32), "bank", bytes(16), True))
    with pytest.raises(LocalProtocolError, match="from the collaborator is out of turn"):
        Session(C).send(Waiting("shop"))


@pytest.mark.parametrize(
    ("dtype", "first", "then", "may"),
    [
        ("float32", (2, 3), (4, 3), True),
        ("float32", (2, 3), (2, 4), False),
        ("float32", (2, 3), (2, 0), False),
        ("float32", (1, 2, 3), (1, 1, 3), True),  # sequences
        ("float32", (1, 2, 3), (1, 0, 3), False),
        ("int64", (1, 2), (1, 3), True),  # of tokens
        ("int64", (1, 2), (1, 0), False),
    ],
)
def test_sizes_that_change_between_batches(
    dtype: Any, first: tuple[int, ...], then: tuple[int, ...], may: bool
) -> None:
    def features(batch: int, shape: tuple[int, ...]) -> tuple[Features, int]:
        spec = TensorSpec("", dtype, shape)
        return Features(1, batch, shape[0], "tensor", (spec,)), spec.nbytes

    session = link_in(State.TEST).ends[H]
    batch = session.batches.sent
    session.forms.clear()
    session.receive(*features(batch, first))
    if may:
        session.receive(*features(batch + 1, then))
    else:
        with pytest.raises(RemoteProtocolError, match="other tensors than in earlier batches"):
            session.receive(*features(batch + 1, then))


def test_a_joint_intersection_needs_points_and_two_collaborators() -> None:
    joint: dict[str, Any] = {"psi_parties": "joint", "psi_protocol": "ecdh"}
    for plan in (
        Plan(host="bank", collaborators=("shop",), **joint),
        Plan(host="bank", collaborators=("shop", "club"), psi_parties="joint"),
    ):
        assert "a joint intersection without" in Link(hello()).refuses(welcome(plan))


def test_a_joint_intersection_sends_a_store_in_place_of_tags() -> None:
    plan = Plan(
        host="bank", collaborators=("shop", "club"), psi_parties="joint", psi_protocol="ecdh"
    )
    link = Link(hello(), welcome(plan), KEY, BEGIN)
    link.say(blinded(5, 32), signed(5, 32), UNBLINDED)
    due = plan.psi_tags(4)
    assert "more than announced" in link.refuses(tags(due + 1))
    link.say(tags(due - 1))
    assert "before all tags" in link.refuses(matched(0, last=True))
    link.say(tags(1), matched(4, last=True))


def test_stores_are_asked_for_again_after_everything_was_signed() -> None:
    plan = Plan(
        host="bank", collaborators=("shop", "club"), psi_parties="joint", psi_protocol="ecdh"
    )
    link = Link(hello(), welcome(plan), KEY)
    refusal = link.refuses(Line(H, PsiBegin(7, 2, again=True)))
    assert "before everything was signed" in refusal
    link.say(Line(H, PsiBegin(7, 7, again=True)), UNBLINDED, tags(plan.psi_tags(4)))
