"""Properties of the table as a graph."""

from __future__ import annotations

import pytest

from heterofed.protocol.messages import (
    MESSAGE_TYPES,
    Abort,
    Message,
    StoredClaims,
    StoredReplies,
    Waiting,
)
from heterofed.protocol.states import COMPLETED, ENDED, TABLE, Role, State
from tests.protocol.link import EVALUATED, Link, stored

LIVE = [state for state in State if state not in ENDED]


def reach(start: State, *, without: frozenset[type[Message]] = frozenset()) -> set[State]:
    seen, new = {start}, [start]
    while new:
        state = new.pop()
        rows = {after for (_, kind), after in TABLE[state].items() if kind not in without}
        rows |= {COMPLETED[each] for each in rows & COMPLETED.keys()}
        new.extend(rows - seen)
        seen |= rows
    return seen


def test_the_table_names_every_state() -> None:
    assert set(TABLE) == set(State)


def test_every_state_can_be_reached() -> None:
    assert reach(State.CONNECTING) == set(State)


@pytest.mark.parametrize("state", LIVE)
def test_every_live_state_reaches_both_ends(state: State) -> None:
    assert reach(state) >= ENDED


@pytest.mark.parametrize("state", LIVE)
def test_an_honest_conversation_can_always_be_completed(state: State) -> None:
    assert State.CLOSED in reach(state, without=frozenset({Abort}))


def test_failure_has_no_way_but_abort() -> None:
    assert State.FAILED not in reach(State.CONNECTING, without=frozenset({Abort}))


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
def test_every_message_belongs_to_one_role(kind: type[Message]) -> None:
    speakers = {role for rows in TABLE.values() for role, each in rows if each is kind}
    assert speakers == set(Role) if kind is Abort else len(speakers) == 1


def test_the_table_knows_exactly_the_messages_that_exist() -> None:
    assert {kind for rows in TABLE.values() for _, kind in rows} == set(MESSAGE_TYPES)


@pytest.mark.parametrize("state", sorted(ENDED))
def test_nothing_is_said_after_the_end(state: State) -> None:
    assert TABLE[state] == {}


@pytest.mark.parametrize("state", LIVE)
def test_anybody_may_abort_and_the_host_may_ask_for_patience(state: State) -> None:
    assert all(TABLE[state][role, Abort] is State.FAILED for role in Role)
    assert TABLE[state][Role.HOST, Waiting] is state


@pytest.mark.parametrize("state", LIVE)
def test_somebody_can_move_every_live_state_on(state: State) -> None:
    assert {kind for _, kind in TABLE[state]} - {Abort, Waiting}


def test_completion_leads_from_live_states_to_live_states() -> None:
    assert set(COMPLETED) | set(COMPLETED.values()) <= set(LIVE)
    assert not set(COMPLETED) & set(COMPLETED.values()), "completed in one step"


@pytest.mark.parametrize("state", COMPLETED)
def test_only_the_host_completes(state: State) -> None:
    """Where the Collaborator's last reply does, the Host may say nothing between both."""
    progress = {role for role, kind in TABLE[state] if kind not in (Abort, StoredReplies)}
    assert progress == {Role.HOST}


def test_nothing_of_the_host_crosses_the_reply_that_completes() -> None:
    link = Link(*EVALUATED, stored(StoredClaims(2, last=True)))
    for kind in {kind for rows in TABLE.values() for role, kind in rows if role is Role.HOST}:
        if kind is StoredClaims:
            assert "after the last one" in link.refuses(stored(StoredClaims(1, last=False)))
        elif kind not in (Abort, Waiting):
            assert (Role.HOST, kind) not in TABLE[link.state]
    link.say(stored(StoredReplies(2)))
    assert link.state is State.SPLIT


def test_the_two_roles_are_each_others_other() -> None:
    assert [role.other for role in Role] == list(reversed(Role))
