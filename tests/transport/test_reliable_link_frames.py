"""Which frames a link says, one by one, and what it tells its owner: fixed on the wire's format."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterofed.errors import LinkError
from heterofed.transport.base import Buffer
from heterofed.transport.flow_control import ACK_EVERY, WINDOW
from heterofed.transport.reliable.handshake import Hello
from heterofed.transport.reliable.link import (
    ANSWERS,
    ASKS,
    BEAT_SECONDS,
    GRACE_SECONDS,
    RETURN_SECONDS,
    Link,
)

TOKEN = bytes(range(16))
LARGE = bytes((32 << 10) + 1)
"""A frame that follows its packet."""


def packet(first: int, took: int, following: int = 0, inline: bytes = b"") -> bytes:
    return struct.pack(">cQQH", b"p", first, took, following) + inline


def welcome(received: int, took: int) -> bytes:
    return struct.pack(">cQQ", b"w", received, took)


def end(last: int) -> bytes:
    return struct.pack(">cQ", b"e", last)


def listening(received: int = 0, took: int = 0, **settings: float) -> Link:
    link = Link(0.0, **settings)  # type: ignore[arg-type]
    assert link.welcome(Hello(TOKEN, False, received, took), 0.0) == welcome(0, 0)
    return link


def said(link: Link, now: float = 0.0) -> list[bytes]:
    return [bytes(frame) for frame in link.outgoing(now)]


# -- what it says --------------------------------------------------------------------------------


def test_small_frames_ride_in_packets_and_large_ones_follow() -> None:
    link = listening()
    link.put([b"a", LARGE[:-1], LARGE, LARGE, b"b", LARGE])
    assert said(link) == [
        packet(1, 0, 0, b"a"),
        packet(2, 0, 2, LARGE[:-1]),
        LARGE,
        LARGE,
        packet(5, 0, 1, b"b"),
        LARGE,
    ]
    assert said(link) == []
    link.put([LARGE, b"c"])
    assert said(link) == [packet(7, 0, 1), LARGE, packet(8, 0, 0, b"c")]


def test_no_more_than_the_window_is_handed_over() -> None:
    link = listening()
    link.put([b"x"] * (WINDOW + 2))
    assert said(link) == [packet(number, 0, 0, b"x") for number in range(1, WINDOW + 1)]
    assert (link.kept, link.pending, link.idle) == (WINDOW, 2, False)
    link.feed(packet(1, 1), 0.0)
    assert said(link) == [packet(WINDOW + 1, 0, 0, b"x")]
    link.feed(packet(1, 2), 0.0)
    assert said(link) == [packet(WINDOW + 2, 0, 0, b"x")]
    assert (link.kept, link.pending, link.idle) == (WINDOW, 0, True)


def test_after_a_cut_it_goes_on_behind_what_the_peer_has() -> None:
    link = listening()
    link.put([b"a", b"b", b"c"])
    said(link)
    link.down(1.0)
    assert said(link) == []
    assert link.welcome(Hello(TOKEN, True, 1, 0), 1.5) == welcome(0, 0)
    assert (link.kept, link.idle) == (2, False)
    assert said(link, 1.5) == [packet(2, 0, 0, b"b"), packet(3, 0, 0, b"c")]
    assert link.idle


def test_whoever_connects_sends_before_the_welcome_on_a_first_connection_alone() -> None:
    link = Link(0.0)
    link.put([b"a"])
    assert (link.greeted, said(link)) == (False, [])
    assert link.hello(TOKEN) == Hello(TOKEN, False, 0, 0).encode()
    assert said(link) == [packet(1, 0, 0, b"a")]
    assert (link.confirmed, link.greeted) == (False, False)
    link.feed(welcome(0, 0), 0.0)  # it was sent before the frame came
    assert (link.confirmed, link.greeted, said(link)) == (True, True, [])
    link.down(1.0)
    assert link.hello(TOKEN) == Hello(TOKEN, True, 0, 0).encode()
    assert (link.greeted, said(link, 2.0)) == (False, [])
    link.feed(welcome(0, 0), 2.0)
    assert said(link, 2.0) == [packet(1, 0, 0, b"a")]


def test_an_acknowledgement_is_said_by_itself_after_so_many_frames() -> None:
    link = listening()
    for number in range(1, 2 * ACK_EVERY + 1):
        link.feed(packet(number, 0, 0, b"x"), 0.0)
        link.take()
        assert said(link) == ([packet(1, number)] if number % ACK_EVERY == 0 else [])


def test_whoever_took_many_frames_at_once_says_so_at_once() -> None:
    """Else a sender with a full window would stand still until the next beat."""
    link = listening()
    for number in range(1, WINDOW + 1):
        link.feed(packet(number, 0, 0, b"x"), 0.0)
        link.take()
    assert said(link) == [packet(1, WINDOW)]


@pytest.mark.parametrize("late", [0.0, 0.5, 100.0])
def test_whoever_is_silent_says_so_at_each_beat(late: float) -> None:
    link = listening()
    assert link.beats_at() == BEAT_SECONDS
    assert said(link, BEAT_SECONDS - 0.1) == []
    spoke = BEAT_SECONDS + late
    assert said(link, spoke) == [packet(1, 0)]
    assert link.beats_at() == spoke + BEAT_SECONDS
    assert said(link, spoke + BEAT_SECONDS - 0.1) == []
    link.put([b"a"])
    assert said(link, spoke + 1.0) == [packet(1, 0, 0, b"a")]
    assert link.beats_at() == spoke + 1.0 + BEAT_SECONDS
    link.down(spoke + 2.0)
    assert link.beats_at() is None
    assert Link(0.0).beats_at() is None


def test_the_end_is_said_once_in_each_connection_and_behind_everything() -> None:
    link = listening()
    link.put([b"x"] * (WINDOW + 1))
    link.end()
    assert said(link)[-1] == packet(WINDOW, 0, 0, b"x")
    link.feed(packet(1, 1), 0.0)
    assert said(link) == [packet(WINDOW + 1, 0, 0, b"x"), end(WINDOW + 1)]
    for now in (0.0, BEAT_SECONDS, 100.0):
        assert said(link, now) == []
    link.down(1.0)
    link.welcome(Hello(TOKEN, True, WINDOW + 1, 1), 1.5)
    assert said(link, 1.5) == [end(WINDOW + 1)]
    assert said(link, 200.0) == []
    assert not link.ended, "the other side has not"


def test_an_end_without_frames_is_said_at_once() -> None:
    link = listening()
    assert said(link) == []
    link.end()
    assert said(link) == [end(0)]
    assert link.beats_at() == BEAT_SECONDS


def test_nothing_is_left_of_what_was_dropped() -> None:
    link = listening()
    link.put([b"x"] * (WINDOW + 1))
    said(link)
    link.drop()
    assert (link.kept, link.pending, link.idle, link.beats_at()) == (0, 0, False, None)
    assert said(link, 100.0) == []


def test_a_greeting_is_the_one_of_the_format() -> None:
    """Another version of this package reads it."""
    frame = struct.pack(">cB16s?QQ", b"h", 1, TOKEN, True, 3, 2)
    assert Hello(TOKEN, True, 3, 2).encode() == frame
    assert Hello.decode(frame) == Hello(TOKEN, True, 3, 2)
    for other in (b"h\x00", b"h\x02", b"w\x01"):
        with pytest.raises(LinkError):
            Hello.decode(other + frame[2:])


# -- what it hears -------------------------------------------------------------------------------


def test_frames_that_follow_are_frames_whatever_they_look_like() -> None:
    link = listening()
    for first in (1, 3):
        assert link.feed(packet(first, 0, 1, b"a"), 0.0) == b"a"
        assert link.feed(end(first), 0.0) == end(first)
    assert not link.ended
    assert link.untouched == 4
    assert link.feed(packet(5, 0, 2), 0.0) is None
    assert link.feed(b"", 0.0) == b""
    assert link.feed(b"z", 0.0) == b"z"
    assert link.feed(packet(7, 0, 0, b"b"), 0.0) == b"b"
    assert link.untouched == 7
    link.take()
    assert link.untouched == 0


def test_frames_that_came_before_are_not_given_out_again() -> None:
    link = listening()
    link.feed(packet(1, 0, 1, b"a"), 0.0)
    link.feed(b"b", 0.0)
    link.down(1.0)  # and nothing of what followed there counts here
    assert link.welcome(Hello(TOKEN, True, 0, 0), 2.0) == welcome(2, 0)
    assert link.feed(packet(2, 0, 1, b"b"), 2.0) is None
    assert link.feed(b"c", 2.0) == b"c"
    assert link.feed(packet(1, 0, 2, b"a"), 2.0) is None
    assert link.feed(b"b", 2.0) is None
    assert link.feed(b"c", 2.0) is None
    assert link.feed(packet(4, 0, 0, b"d"), 2.0) == b"d"
    assert link.feed(end(4), 2.0) is None
    assert link.ended


@pytest.mark.parametrize("last", [0, 1, 2, 4, 2**64 - 1])
def test_an_end_is_behind_the_last_frame_that_came(last: int) -> None:
    link = listening()
    for number in (1, 2, 3):
        link.feed(packet(number, 0, 0, b"x"), 0.0)
    with pytest.raises(LinkError):
        link.feed(end(last), 0.0)
    assert not link.ended
    link.feed(end(3), 0.0)
    assert link.ended


def test_a_connection_that_was_cut_within_what_follows_ends_it() -> None:
    link = listening()
    link.feed(packet(1, 0, 3), 0.0)
    link.feed(b"a", 0.0)
    link.down(1.0)
    assert link.welcome(Hello(TOKEN, True, 0, 0), 2.0) == welcome(1, 0)
    assert link.feed(packet(2, 0, 0, b"b"), 2.0) == b"b"


@pytest.mark.parametrize(
    ("following", "inline"), [(WINDOW, b""), (WINDOW - 1, b"a")], ids=["following", "inline"]
)
def test_a_peer_may_be_ahead_by_the_window(following: int, inline: bytes) -> None:
    link = listening()
    assert bool(link.feed(packet(1, 0, following, inline), 0.0)) == bool(inline)
    for _ in range(following):
        link.feed(b"x", 0.0)
    for taken in range(4):
        with pytest.raises(LinkError):
            link.feed(packet(WINDOW + 1, 0, taken, b"y"), 0.0)
        link.take()
    assert link.feed(packet(WINDOW + 1, 0, 3, b"y"), 0.0) == b"y"


def test_a_peer_acknowledges_what_it_got_and_never_less() -> None:
    link = listening()
    link.put([b"x"] * 4)
    said(link)
    link.feed(packet(1, 3), 0.0)
    assert link.kept == 1
    link.feed(packet(1, 2), 0.0)  # one that was said before, which a new connection may bring
    assert link.kept == 1
    link.feed(packet(1, 4), 0.0)
    assert (link.kept, link.idle) == (0, True)
    with pytest.raises(LinkError):
        link.feed(packet(1, 5), 0.0)


@given(st.sampled_from([packet(1, 0), welcome(0, 0), end(0)]), st.binary(min_size=1, max_size=3))
def test_a_frame_that_is_longer_or_shorter_is_refused(frame: bytes, more: bytes) -> None:
    for greeted in (True, False):
        link = listening() if greeted else Link(0.0)
        if not greeted:
            link.hello(TOKEN)
        wrong = [frame[: -len(more)]]
        if frame[:1] != b"p":  # what is behind it is a frame
            wrong.append(frame + more)
        for each in wrong:
            with pytest.raises(LinkError):
                link.feed(each, 0.0)


def test_a_packet_holds_no_large_frame() -> None:
    assert listening().feed(packet(1, 0, 0, LARGE[:-1]), 0.0) == LARGE[:-1]
    with pytest.raises(LinkError):
        listening().feed(packet(1, 0, 0, LARGE), 0.0)


# -- when it is lost -----------------------------------------------------------------------------


@pytest.mark.parametrize("grace", [GRACE_SECONDS, RETURN_SECONDS, 0.5])
def test_it_is_lost_after_its_grace_and_not_before_a_moment_to_come_back(grace: float) -> None:
    link = listening(grace=grace)
    assert (link.is_down, link.gives_up_at()) == (False, None)
    link.feed(packet(1, 0), 10.0)
    link.down(10.0)
    assert (link.is_down, link.gives_up_at()) == (True, 10.0 + grace)
    link.up(11.0)
    link.down(50.0)
    assert link.gives_up_at() == 50.0 + min(RETURN_SECONDS, grace)
    link.welcome(Hello(TOKEN, True, 0, 0), 51.0)
    assert (link.is_down, link.gives_up_at()) == (False, None)


def test_buffers_of_every_kind_are_taken_and_copied() -> None:
    data = bytearray(b"abc")
    kinds: list[Buffer] = [data, memoryview(data), bytes(data)]
    link = listening()
    link.put(kinds)
    frames = said(link)
    data[:] = b"xyz"
    link.down(1.0)
    link.welcome(Hello(TOKEN, True, 0, 0), 1.5)
    assert said(link, 1.5) == frames


# -- round trips ---------------------------------------------------------------------------------


def measured(link: Link) -> float | None:
    return link.round_trip


def test_an_end_asks_for_an_answer_and_times_it() -> None:
    link = listening()
    link.put([b"a", b"b"])
    assert len(said(link)) == 2
    assert said(link, BEAT_SECONDS) == [packet(ASKS, 0)]
    assert said(link, 2 * BEAT_SECONDS) == [packet(3, 0)]  # a heartbeat; the question stands
    assert measured(link) is None
    assert link.feed(packet(1, 2, 0, b"c"), 5.0) == b"c"
    link.feed(packet(2, 2, 0, b"d"), 5.0)
    link.feed(packet(ANSWERS, 2), 5.5)
    assert measured(link) == 3.5
    assert said(link, 8.0) == [packet(ASKS, 0)]
    link.feed(packet(ANSWERS, 2), 8.25)
    link.feed(packet(ANSWERS, 2), 8.25)  # an answer to nothing
    assert measured(link) == 0.25


def test_an_end_answers_once_however_often_it_is_asked() -> None:
    link = listening()
    link.put([b"a", b"b"])
    assert len(said(link)) == 2
    for number in (1, 2):
        link.feed(packet(number, 2, 0, b"c"), 0.0)
    for _ in range(1000):
        assert link.feed(packet(ASKS, 2), 0.0) is None
    assert said(link) == [packet(ANSWERS, 0)]
    assert said(link) == []


def test_acknowledgements_of_one_that_has_said_little_ask_for_nothing() -> None:
    link = listening()
    link.put([b"a", b"b"])
    assert len(said(link)) == 2
    link.feed(packet(1, 0), 0.0)
    link.feed(packet(1, 0, 0, b"c"), 0.0)
    link.feed(packet(2, 0), 0.0)
    assert said(link) == []
    assert measured(link) is None


def test_a_question_of_a_lost_connection_is_forgotten() -> None:
    link = listening()
    link.put([b"a", b"b"])
    said(link)
    for number in (1, 2):
        link.feed(packet(number, 2, 0, b"c"), 0.0)
    assert said(link, BEAT_SECONDS) == [packet(ASKS, 0)]
    link.down(3.0)
    link.welcome(Hello(TOKEN, True, 2, 2), 50.0)
    link.feed(packet(ANSWERS, 2), 50.0)
    assert measured(link) is None
