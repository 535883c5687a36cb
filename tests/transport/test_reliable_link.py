"""Whatever is cut, what comes out of a link is what went in; and no peer can talk it into more."""

from __future__ import annotations

import random
import struct
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterofed.errors import ChannelOverflowError, LinkError
from heterofed.transport.base import MAX_FRAME_BYTES, Buffer
from heterofed.transport.flow_control import ACK_EVERY, WINDOW
from heterofed.transport.reliable.handshake import Hello, Refusal, encode_refusal
from heterofed.transport.reliable.link import BEAT_SECONDS, GRACE_SECONDS, RETURN_SECONDS, Link

TOKEN = bytes(range(16))


class End:
    """One end, what its caller sent and took, and what the connection holds of what it said."""

    def __init__(self, **settings: Any) -> None:
        self.link = Link(0.0, **settings)
        self.sent: list[bytes] = []
        self.came: deque[bytes] = deque()
        self.took: list[bytes] = []
        self.wire: deque[bytes] = deque()

    def send(self, frames: list[bytes]) -> None:
        self.link.put(frames)
        self.sent += frames

    def take(self, count: int) -> None:
        for _ in range(min(count, len(self.came))):
            self.took.append(self.came.popleft())
            self.link.take()


class Pair:
    """Two ends and a network that is cut wherever a test likes."""

    def __init__(self, **settings: Any) -> None:
        self.near, self.far = End(**settings), End(**settings)
        self.now = 0.0
        self.connected = False

    def other(self, end: End) -> End:
        return self.far if end is self.near else self.near

    def connect(self) -> None:
        if not self.connected:
            self.connected = True
            self.near.link.up(self.now)
            self.near.wire.append(self.near.link.hello(TOKEN))
            self.fresh = True

    def cut(self) -> None:
        if self.connected:
            self.connected = False
            self.near.wire.clear()
            self.far.wire.clear()
            for end in (self.near, self.far):
                end.link.down(self.now)

    def say(self, end: End) -> None:
        if self.connected:
            silent = end.link.is_silent(self.now)
            said = [bytes(frame) for frame in end.link.outgoing(self.now)]
            assert not (silent and said)
            end.wire.extend(said)

    def deliver(self, end: End, count: int = 1) -> None:
        """Hand frames that `end` said to the other one."""
        other = self.other(end)
        for _ in range(min(count, len(end.wire))):
            frame = end.wire.popleft()
            if end is self.near and self.fresh:
                self.fresh = False
                other.wire.append(other.link.welcome(Hello.decode(frame), self.now))
            elif (came := other.link.feed(frame, self.now)) is not None:
                other.came.append(bytes(came))

    def settle(self) -> None:
        """A connection that holds until all is said."""
        self.connect()
        for _ in range(10_000):
            self.now += BEAT_SECONDS
            before = len(self.near.took), len(self.far.took)
            for end in (self.near, self.far):
                self.say(end)
                self.deliver(end, len(end.wire))
                self.other(end).take(1000)
            if before == (len(self.near.took), len(self.far.took)) and not any(
                not end.link.idle or end.wire for end in (self.near, self.far)
            ):
                break

    def check_bounds(self) -> None:
        for end in (self.near, self.far):
            assert end.link.kept <= WINDOW
            assert len(end.came) <= WINDOW
            out = [*end.took, *end.came]
            assert out == self.other(end).sent[: len(out)]


SIZES = st.sampled_from([1, 2, 100, 32 << 10, (32 << 10) + 1, 70_000])
ACTION = st.one_of(
    st.tuples(st.just("send"), st.booleans(), st.lists(SIZES, min_size=1, max_size=8)),
    st.tuples(st.just("say"), st.booleans(), st.just(0)),
    st.tuples(st.just("deliver"), st.booleans(), st.integers(1, 12)),
    st.tuples(st.just("take"), st.booleans(), st.integers(1, 12)),
    st.tuples(st.just("cut"), st.booleans(), st.just(0)),
    st.tuples(st.just("connect"), st.booleans(), st.just(0)),
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(ACTION, max_size=80), st.integers(0, 2**32))
def test_what_comes_out_is_what_went_in(actions: list[tuple[str, bool, Any]], seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair()
    for name, at_near, what in actions:
        pair.now += 0.1
        end = pair.near if at_near else pair.far
        match name:
            case "send":
                end.send([rng.randbytes(size) for size in what])
            case "say":
                pair.say(end)
            case "deliver":
                pair.deliver(end, what)
            case "take":
                end.take(what)
            case "cut":
                pair.cut()
            case "connect":
                pair.connect()
        pair.check_bounds()
    pair.settle()
    assert pair.far.took == pair.near.sent
    assert pair.near.took == pair.far.sent
    assert not pair.near.link.pending
    assert not pair.far.link.pending


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 400))
def test_hundreds_of_cuts_change_nothing(seed: int, cuts: int) -> None:
    rng = random.Random(seed)
    pair = Pair()
    for number in range(cuts):
        pair.connect()
        for end in (pair.near, pair.far):
            end.send([b"%d" % number * rng.randrange(1, 40) for _ in range(rng.randrange(3))])
            pair.say(end)
            pair.deliver(end, rng.randrange(6))
            end.take(rng.randrange(6))
        pair.check_bounds()
        pair.cut()
    pair.settle()
    assert pair.far.took == pair.near.sent
    assert pair.near.took == pair.far.sent


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), max_size=20))
def test_duplicates_are_dropped(replays: list[tuple[int, int]]) -> None:
    """Packets of small frames that come again, in the order in which they came."""
    pair = Pair()
    pair.connect()
    pair.near.send([b"%d" % number for number in range(30)])
    pair.say(pair.near)
    said = list(pair.near.wire)[1:]
    pair.deliver(pair.near, len(pair.near.wire))
    for start, count in replays:
        for frame in said[start : start + count]:
            assert pair.far.link.feed(frame, 0.0) is None
    pair.settle()
    assert pair.far.took == pair.near.sent


def test_the_buffer_is_bounded_while_nobody_is_there() -> None:
    pair = Pair(max_pending=1000)
    pair.connect()
    pair.near.send([b"x"] * WINDOW)
    pair.say(pair.near)
    pair.cut()
    pair.near.send([bytes(10)] * 100)
    assert pair.near.link.pending == 1000
    assert pair.near.link.kept == WINDOW
    with pytest.raises(ChannelOverflowError):
        pair.near.link.put([b"x"])
    pair.settle()
    assert pair.far.took == pair.near.sent


def test_a_frame_that_may_be_sent_again_is_not_the_callers_any_more() -> None:
    pair = Pair()
    pair.connect()
    buffer = bytearray(b"before")
    pair.near.link.put([memoryview(buffer)])
    assert pair.near.link.pending == 6
    pair.say(pair.near)
    assert pair.near.link.pending == 0
    buffer[:] = b"after "
    pair.cut()
    pair.settle()
    assert pair.far.took == [b"before"]


def test_the_largest_frames_fit() -> None:
    pair = Pair()
    pair.near.send([bytes(MAX_FRAME_BYTES), b"x", bytes(MAX_FRAME_BYTES)])
    pair.connect()
    pair.say(pair.near)
    assert max(map(len, pair.near.wire)) == MAX_FRAME_BYTES
    assert len(pair.near.wire) == 1 + 4  # one Hello; a packet for the first, `x` in the second's
    pair.settle()
    assert pair.far.took == pair.near.sent


def test_the_end_comes_behind_everything_and_again_after_a_cut() -> None:
    pair = Pair()
    pair.connect()
    pair.near.send([b"%d" % number for number in range(2 * WINDOW)])
    pair.near.link.end()
    pair.say(pair.near)
    pair.deliver(pair.near, 10)
    pair.cut()
    pair.settle()
    assert pair.far.took == pair.near.sent
    assert pair.far.link.ended
    assert not pair.near.link.ended


def test_acknowledgements_ride_on_traffic_or_come_by_themselves() -> None:
    pair = Pair()
    pair.settle()
    pair.near.send([b"x"] * (ACK_EVERY - 1))
    pair.say(pair.near)
    pair.deliver(pair.near, 100)
    pair.far.take(100)
    pair.say(pair.far)
    assert not pair.far.wire
    pair.far.send([b"answer"])
    pair.say(pair.far)
    assert len(pair.far.wire) == 1
    pair.deliver(pair.far)
    assert pair.near.link.kept == 0
    pair.near.send([b"x"])
    pair.say(pair.near)
    pair.deliver(pair.near)
    pair.far.take(1)
    pair.say(pair.far)
    assert not pair.far.wire
    pair.now += BEAT_SECONDS
    pair.say(pair.far)
    pair.deliver(pair.far)
    assert pair.near.link.kept == 0


# When it is lost


def test_it_is_lost_when_nothing_came_back_in_time() -> None:
    link = Link(0.0)
    link.welcome(Hello(TOKEN, False, 0, 0), 0.0)
    assert link.gives_up_at() is None
    link.feed(_packet(1, 0, 0), 100.0)
    link.down(101.0)
    assert link.gives_up_at() == 100.0 + GRACE_SECONDS
    link.down(105.0)
    assert link.gives_up_at() == 100.0 + GRACE_SECONDS
    link.up(106.0)
    assert link.gives_up_at() is None


def test_a_silence_counts_and_leaves_a_moment_to_come_back() -> None:
    link = Link(0.0)
    link.welcome(Hello(TOKEN, False, 0, 0), 0.0)
    link.down(100.0)
    assert link.gives_up_at() == 100.0 + RETURN_SECONDS


# What hostile peers claim


def _packet(first: int, took: int, following: int, inline: bytes = b"") -> bytes:
    return struct.pack(">cQQH", b"p", first, took, following) + inline


def _welcomed(frames: int = 0) -> Link:
    """A listening side that has sent so many frames."""
    link = Link(0.0)
    link.put([b"x"] * frames if frames else [])
    link.welcome(Hello(TOKEN, False, 0, 0), 0.0)
    link.outgoing(0.0)
    return link


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"z",
        b"p",
        b"x",
        b"xu",
        b"w" + bytes(16),
        b"h" + bytes(34),
        _packet(0, 0, 0),
        _packet(0, 0, 1),
        _packet(2, 0, 0, b"a"),
        _packet(2, 0, 0),
        _packet(2**64 - 1, 0, 0, b"a"),
        _packet(1, 6, 0),
        _packet(1, 2**64 - 1, 0, b"a"),
        _packet(1, 0, WINDOW + 1),
        _packet(1, 0, WINDOW, b"a"),
        _packet(1, 0, 65535),
        _packet(1, 0, 0, bytes((32 << 10) + 1)),
        b"e" + (1).to_bytes(8, "big"),
        b"e" + (2**64 - 1).to_bytes(8, "big"),
        b"e",
        b"e" + bytes(9),
    ],
    ids=lambda frame: repr(frame[:12]),
)
def test_impossible_claims_are_refused(frame: bytes) -> None:
    with pytest.raises(LinkError):
        _welcomed(5).feed(frame, 0.0)


@given(st.lists(st.binary(max_size=60) | st.builds(_packet, *[st.integers(0, 70)] * 3), max_size=9))
def test_no_bytes_of_a_peer_do_more_than_be_refused(frames: list[bytes]) -> None:
    link = _welcomed(5)
    came = 0
    try:
        for frame in frames:
            came += link.feed(frame, 0.0) is not None
    except LinkError:
        pass
    assert came <= WINDOW
    link.outgoing(0.0)
    assert link.kept <= 5


@pytest.mark.parametrize(
    ("received", "took"), [(6, 0), (0, 1), (2, 3), (2**64 - 1, 0), (2**64 - 1, 2**64 - 1)]
)
def test_a_hello_that_claims_too_much_is_refused(received: int, took: int) -> None:
    link = _welcomed(5)
    with pytest.raises(LinkError):
        link.welcome(Hello(TOKEN, True, received, took), 0.0)


def test_a_hello_that_lost_what_it_had_is_refused() -> None:
    link = _welcomed(5)
    link.welcome(Hello(TOKEN, True, 3, 1), 0.0)
    with pytest.raises(LinkError):
        link.welcome(Hello(TOKEN, True, 2, 1), 0.0)
    link = _welcomed(5)
    link.feed(_packet(1, 4, 0), 0.0)
    with pytest.raises(LinkError):
        link.welcome(Hello(TOKEN, True, 5, 3), 0.0)


@pytest.mark.parametrize("received", [1, 2**64 - 1])
def test_a_welcome_that_claims_too_much_is_refused(received: int) -> None:
    link = Link(0.0)
    link.hello(TOKEN)
    with pytest.raises(LinkError):
        link.feed(struct.pack(">cQQ", b"w", received, 0), 0.0)


@pytest.mark.parametrize("frame", [_packet(1, 0, 0, b"x"), b"e" + bytes(8)])
def test_nothing_comes_before_the_welcome(frame: bytes) -> None:
    link = Link(0.0)
    link.hello(TOKEN)
    with pytest.raises(LinkError):
        link.feed(frame, 0.0)


def test_one_welcome_is_enough() -> None:
    link = Link(0.0)
    link.hello(TOKEN)
    welcome = struct.pack(">cQQ", b"w", 0, 0)
    assert link.feed(welcome, 0.0) is None
    with pytest.raises(LinkError):
        link.feed(welcome, 0.0)


@pytest.mark.parametrize("refusal", Refusal)
def test_a_refusal_is_understood(refusal: Refusal) -> None:
    link = Link(0.0)
    link.hello(TOKEN)
    link.feed(encode_refusal(refusal), 0.0)
    assert link.refusal is refusal
    with pytest.raises(LinkError):
        link.feed(b"x?", 0.0)


@pytest.mark.parametrize(
    "frame", [b"", b"h", bytes(35), b"h\x02" + bytes(33), b"h\x01" + bytes(34), b"p" + bytes(34)]
)
def test_a_first_frame_that_is_no_hello_is_refused(frame: Buffer) -> None:
    with pytest.raises(LinkError):
        Hello.decode(frame)


@given(st.binary(min_size=16, max_size=16), st.booleans(), st.integers(0, 2**64 - 1))
def test_a_hello_reads_as_it_was_written(token: bytes, resumes: bool, received: int) -> None:
    hello = Hello(token, resumes, received, received // 2)
    assert Hello.decode(hello.encode()) == hello
