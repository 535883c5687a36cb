"""Every phase has limits, honest messages fit into them, and nothing longer is even decoded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from heterofed.errors import RemoteProtocolError
from heterofed.protocol import limits
from heterofed.protocol.codec import Decoder, encode
from heterofed.protocol.messages import Abort, Hello, Terms, Waiting, Welcome
from heterofed.protocol.plan import MAX_AGREED, MAX_PARTIES, Plan
from heterofed.protocol.session import Session
from heterofed.protocol.states import ENDED, Role, State

from .link import AVERAGE_RUN, HONEST_RUN, Line, Link

MIB = 1 << 20
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


@pytest.mark.parametrize("lines", [HONEST_RUN, AVERAGE_RUN], ids=["vertical", "horizontal"])
def test_an_honest_run_fits(lines: tuple[Line, ...]) -> None:
    link = Link()
    for line in lines:
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
    probes = state.startswith("probe")
    assert state in ENDED or found.payload <= limits.most_waiting(plan, probes=probes)
    assert found.header <= limits.MAX_HEADER_BYTES


def planned(**settings: Any) -> Plan:
    small = {"max_peer_ids": 100, "max_batch_bytes": 10}
    return Plan(host="h", collaborators=("c",), **(small | settings))


def test_what_both_ends_count_alike_stays_as_it_is() -> None:
    """Parties of different versions of this package would refuse each other's messages."""
    assert (limits.MAX_FRAME_BYTES, limits.MAX_HEADER_BYTES) == (MIB, MIB // 4)
    assert (limits.MAX_KEY_BYTES, limits.TAG_BYTES, limits.POINT_BYTES) == (16_384, 16, 32)
    assert (limits.PSI_WINDOW, limits.MAX_ANSWERS, limits.AHEAD_BYTES) == (8, 2, 64 * MIB)


@pytest.mark.parametrize(
    ("states", "header", "payload"),
    [
        ("CONNECTING GREETED", 256 << 10, 0),
        ("PSI PSI_KEYED PSI_MATCHED PSI_COUNT PSI_COUNT_OWN PSI_STORED_ASKED", 4096, MIB),
        ("SPLIT_PROPOSED PREDICT_PROPOSED READY CHECKPOINT FINISHING SPLIT", 4096, 0),
        ("TRAIN TRAIN_DRAINING TEST TEST_DRAINING", 256 << 10, 10),
        ("CLOSED FAILED", 256 << 10, MIB),
    ],
)
def test_every_phase_has_its_limits(states: str, header: int, payload: int) -> None:
    for state in (State[name] for name in states.split()):
        assert limits.limits_of(state, planned()) == limits.Limits(header, payload)
        joining = state in ENDED or limits.limits_of(state, None) == limits.Limits(256 << 10, 0)
        assert joining, "no plan, no payload"


def test_limits_follow_the_plan() -> None:
    large = planned(max_batch_bytes=10**9)
    assert limits.limits_of(State.TRAIN, large).payload == 10**9
    assert [limits.limits_of(state, large).payload for state in sorted(ENDED)] == [10**9] * 2
    assert limits.limits_of(State.CLOSED, None) == limits.Limits(256 << 10, MIB)
    assert limits.limits_of(State.SPLIT, planned(announced_split=True)).payload == MIB


@pytest.mark.parametrize(
    ("settings", "counts", "room"),
    [
        ({}, False, 10 * (MIB + 512) + 1600),  # chunks in both directions, and all tags
        ({}, True, 10 * (MIB + 512) + 6400),
        ({"max_peer_ids": 10**9}, False, 10 * (MIB + 512) + 16 * 10**9 + 15_258 * 512),
        ({"max_peer_ids": 10**9}, True, 10 * (MIB + 512) + 64 * 10**9 + 61_035 * 512),
        ({"max_batch_bytes": 10**9}, False, 2 * (10**9 + 512)),  # answers to the open batch
        ({"max_batch_bytes": 10**9, "max_staleness": 3}, False, 8 * (10**9 + 512)),
        ({"max_batch_bytes": 10**9, "max_staleness": "auto"}, False, 66 * (10**9 + 512)),
        ({"max_batch_bytes": 10**7, "credit": 4}, False, 4 * (10**7 + 512)),  # features ahead
        ({"max_batch_bytes": 10**7, "credit": 64}, False, 64 * MIB + 10**7 + 512),
    ],
)
def test_there_is_room_for_what_may_honestly_wait(
    settings: dict[str, Any], counts: bool, room: int
) -> None:
    if "max_batch_bytes" in settings:
        settings = {"credit": 1} | settings
    assert limits.most_waiting(planned(**settings), counts=counts) == (512 << 10) + room
    assert limits.most_waiting(None, counts=counts) == 512 << 10
    assert counts or limits.most_waiting(planned(**settings)) == (512 << 10) + room


@pytest.mark.parametrize("role", Role)
def test_a_longer_header_is_not_decoded(role: Role) -> None:
    session = Session(role)
    decoder = Decoder(session.admit, lambda: session.limits.header)
    frame = b"HF\x01\x00" + (session.limits.header + 1).to_bytes(4, "little") + bytes(8)
    with pytest.raises(RemoteProtocolError, match="a header of a length"):
        decoder.feed(frame + bytes(session.limits.header + 1))
