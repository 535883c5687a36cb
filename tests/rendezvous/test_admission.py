"""Whom a Host admits, and by which code it turns others away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer, Timeouts
from heterofed.protocol.messages import Held, Hello, Mark
from heterofed.protocol.plan import Plan
from heterofed.protocol.states import Role
from heterofed.rendezvous.admission import Admission
from heterofed.rendezvous.agreement import Agreement, Earlier
from heterofed.transport.memory import Hub, MemoryChannel, MemoryEndpoint

RUN, TASK = bytes(16), bytes(32)
BEGUN = Agreement(Plan(host="alice", collaborators=("bob",)), RUN, bytes(32))


@pytest.fixture
def host() -> Iterator[Party]:
    party = Party("alice", Role.HOST, MemoryEndpoint(Hub()), timeouts=Timeouts())
    yield party
    party.close(0)


def judged(host: Party, admission: Admission, *rounds: int) -> str | None:
    """What a party that holds these checkpoints is told."""
    visitor = Peer("a visitor", MemoryChannel(MemoryEndpoint(Hub()), None), Role.HOST, 0.0)
    held = Held(RUN, tuple(map(Mark, rounds)))
    hello = Hello((1,), "train", TASK, "bob", bytes(16), trainable=True, held=held)
    return admission.judge(host, visitor, hello)


def test_a_party_that_restarts_before_its_loss_is_known_may_come_again(host: Party) -> None:
    """The run has gone on since the parties connected, so it holds other checkpoints than then."""
    going_on = Earlier(BEGUN, (Mark(0), Mark(1)), split=True)
    admission = Admission(TASK, "train", "alice", ["bob"], going_on=going_on)
    assert judged(host, admission, 2, 3) == "resume"
    assert judged(host, admission, 0, 1) is None
    admission.close(host)
    assert judged(host, admission, 2, 3) == "duplicate_party"  # it tries again
