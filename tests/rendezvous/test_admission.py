"""Whom a Host admits, and by which code it turns others away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from heterofed.errors import PeerLostError, RemoteProtocolError, TaskAborted
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer, Timeouts
from heterofed.protocol.messages import Held, Hello, Mark
from heterofed.protocol.plan import Plan
from heterofed.protocol.states import Role
from heterofed.rendezvous.admission import Admission
from heterofed.rendezvous.agreement import Agreement, Earlier
from heterofed.rendezvous.join import announce, gather, knock
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


def visitor(hub: Hub, name: str) -> Party:
    """A Collaborator that has said Hello."""
    party = Party(name, Role.COLLABORATOR, hub.connect(name), timeouts=Timeouts())
    assert knock(party, Hello((1,), "train", TASK, name, bytes(16), trainable=True), 1.0)
    return party


@pytest.mark.parametrize("how", ["leaves", "ends the task", "breaks the protocol"])
@pytest.mark.parametrize("name", ["bob", "carol"])
def test_a_party_that_is_lost_once_all_are_there_is_not_forgotten(name: str, how: str) -> None:
    """Forgetting it would let the task go on without a party that is part of the plan."""
    hub = Hub()
    host = Party("alice", Role.HOST, hub.listen(), timeouts=Timeouts())
    others = {each: visitor(hub, each) for each in ("bob", "carol")}
    goer = others[name]

    def make_plan(names: tuple[str, ...]) -> Plan:
        assert names == ("bob", "carol")
        if how == "leaves":
            goer.close(0)
        elif how == "ends the task":
            goer.abort(KeyboardInterrupt(), "interrupted")
        else:
            goer.peers["the Host"].channel.send([b"nonsense"])
        for _ in range(10):  # as while messages to a slow party are on their way
            host.pump(0.0)
        return Plan(host="alice", collaborators=names)

    admission = Admission(TASK, "train", "alice", ["bob", "carol"])
    try:
        with pytest.raises((PeerLostError, TaskAborted, RemoteProtocolError)) as raised:
            announce(host, *gather(host, admission, make_plan, join_timeout=5))
        assert raised.value.party == name
    finally:
        for party in (host, *others.values()):
            party.close(0)
