"""Every phase has limits, honest messages fit into them, and nothing longer is even decoded."""

from __future__ import annotations

import msgspec
import pytest

from heterofed.errors import RemoteProtocolError
from heterofed.protocol import limits
from heterofed.protocol.codec import Decoder, encode
from heterofed.protocol.messages import Abort, Hello, Terms, Waiting, Welcome
from heterofed.protocol.plan import MAX_AGREED, MAX_PARTIES, Plan
from heterofed.protocol.session import Session
from heterofed.protocol.states import ENDED, Role, State

from .link import HONEST_RUN, Link

LONGEST = "\U00020000" * 128  # a name of as many bytes as there can be
PLAN = Plan(host="h", collaborators=("c",), max_batch_bytes=1000)


def header_bytes(message: object) -> int:
    return len(msgspec.msgpack.encode(message))


def test_the_largest_words_of_the_join_fit() -> None:
    names = tuple(f"{number:02}" + "\U00020000" * 126 for number in range(MAX_PARTIES))
    terms = bytes(1 << 16)
    agreed = tuple((f"{number:a>64}", "\U00020000" * 512) for number in range(MAX_AGREED))
    for message in (
        Hello((1,) * 16, "train", bytes(32), LONGEST, bytes(16), True, terms=terms),
        Terms(terms),
        Welcome(1, bytes(16), bytes(32), Plan(host=LONGEST, collaborators=names, agreed=agreed)),
    ):
        assert encode(message)
        assert header_bytes(message) <= limits.joining().header


def test_an_honest_run_fits() -> None:
    link = Link()
    for line in HONEST_RUN:
        hearing = link.ends[line.speaker.other]
        assert header_bytes(line.message) <= hearing.limits.header
        assert line.size <= hearing.limits.payload
        link.say(line)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("plan", [None, PLAN])
def test_the_words_of_every_state_fit(state: State, plan: Plan | None) -> None:
    found = limits.limits_of(state, plan)
    for message in (Abort("x" * 64, "y" * 64, LONGEST, 1, 1, (1, 2)), Waiting(LONGEST)):
        assert header_bytes(message) <= found.header
    assert state in ENDED or found.payload <= limits.most_waiting(plan)
    assert found.header <= limits.MAX_HEADER_BYTES


def test_limits_follow_the_plan() -> None:
    small, large = (Plan(host="h", collaborators=("c",), max_batch_bytes=n) for n in (10, 10**9))
    assert limits.exchanging(small).payload == 10
    assert limits.most_waiting(large) > 2 * 10**9
    ahead = Plan(host="h", collaborators=("c",), max_batch_bytes=10**9, max_staleness=3)
    assert 8 * 10**9 < limits.most_waiting(ahead) < 8.1 * 10**9
    few, many = (Plan(host="h", collaborators=("c",), max_peer_ids=n, max_batch_bytes=10)
                 for n in (100, 10**9))  # fmt: skip
    assert limits.most_waiting(few) < 12 << 20
    assert 16 * 10**9 < limits.most_waiting(many) < 16.1 * 10**9


@pytest.mark.parametrize("role", Role)
def test_a_longer_header_is_not_decoded(role: Role) -> None:
    session = Session(role)
    decoder = Decoder(session.admit, lambda: session.limits.header)
    frame = b"HF\x01\x00" + (session.limits.header + 1).to_bytes(4, "little") + bytes(8)
    with pytest.raises(RemoteProtocolError, match="a header of a length"):
        decoder.feed(frame + bytes(session.limits.header + 1))
