"""What every transport must do; a new one is added to `KINDS` and passes all of this."""

from __future__ import annotations

import contextlib
import random
import threading
import time

import pytest

from heterofed.errors import ChannelClosedError, ChannelOverflowError
from heterofed.transport.base import MAX_FRAME_BYTES, Lost, LostReason, Opened, Received
from heterofed.transport.flow_control import MAX_EVENTS, WINDOW
from tests.transport.rigs import PARTIES, Rig, pump

ENDED = {LostReason.CLOSED, LostReason.DISCONNECTED}


def test_the_first_frame_opens_and_the_party_is_named(rig: Rig) -> None:
    listener, peer = rig.listen(), rig.connect()
    assert listener.endpoint.poll(0.05) == []
    peer.channel.send([b"hello"])
    pump([listener, peer], lambda: len(listener.events) == 2 and len(peer.events) == 1)
    opened, received = listener.events
    assert isinstance(opened, Opened)
    assert isinstance(received, Received)
    assert bytes(received.frame) == b"hello"
    assert opened.channel is received.channel
    proven = PARTIES[0] if rig.proves else None
    assert opened.channel.party == proven
    assert peer.channels == [peer.channel]


def test_frames_keep_order_and_content_both_ways(rig: Rig) -> None:
    listener, peer, channel = rig.pair()
    rng = random.Random(1)
    sizes = [1, 2, 255, 256, 65535, 65536, 65537, *(rng.randrange(1, 20000) for _ in range(300))]
    there = [rng.randbytes(size) for size in sizes]
    back = [rng.randbytes(size) for size in reversed(sizes)]
    peer.channel.send(there)
    channel.send(memoryview(frame) for frame in back)
    pump([listener, peer], lambda: len(listener.frames()) > len(there) and peer.frames() == back)
    assert listener.frames()[1:] == there


def test_the_largest_and_the_smallest_frame(rig: Rig) -> None:
    listener, peer, channel = rig.pair()
    largest = random.Random(2).randbytes(MAX_FRAME_BYTES)
    peer.channel.send([largest, b"x", bytearray(largest)])
    channel.send([memoryview(largest)])
    pump([listener, peer], lambda: len(listener.frames()) == 4 and peer.frames() == [largest])
    assert listener.frames()[1:] == [largest, b"x", largest]
    assert not listener.lost()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(MAX_FRAME_BYTES + 1),
        memoryview(bytes(8 * MAX_FRAME_BYTES)).cast("d"),
        memoryview(b"abcdef")[::2],
    ],
    ids=["empty", "oversized", "oversized items", "not contiguous"],
)
def test_an_impossible_frame_is_refused_here_with_all_others(
    rig: Rig, frame: bytes | memoryview
) -> None:
    listener, peer, channel = rig.pair()
    for end in (peer.channel, channel):
        with pytest.raises(ValueError):
            end.send([b"good", frame])
        assert end.pending == 0
        end.send([b"next"])
    pump([listener, peer], lambda: len(listener.frames()) == 2 and len(peer.frames()) == 1)
    assert listener.frames()[1:] == peer.frames() == [b"next"]


def test_many_channels_interleave_and_stay_apart(rig: Rig) -> None:
    listener = rig.listen()
    peers = [rig.connect(name) for name in PARTIES]
    for number in range(40):
        for which, peer in enumerate(peers):
            peer.channel.send([b"%d:%d" % (which, number)])
    pump([listener, *peers], lambda: len(listener.frames()) == 40 * len(peers))
    assert len(listener.channels) == len(peers)
    for channel in listener.channels:
        frames = listener.frames(channel)
        which = int(frames[0].split(b":")[0])
        assert frames == [b"%d:%d" % (which, number) for number in range(40)]
        channel.send([b"to:%d" % which])
    pump([listener, *peers], lambda: all(peer.frames() for peer in peers))
    assert [peer.frames() for peer in peers] == [[b"to:%d" % i] for i in range(len(peers))]


def test_poll_waits_no_longer_than_asked_and_wakes_up_early(rig: Rig) -> None:
    listener, peer, channel = rig.pair()
    start = time.monotonic()
    assert listener.endpoint.poll(0.2) == []
    assert 0.15 < time.monotonic() - start < 1.0
    start = time.monotonic()
    assert listener.endpoint.poll(0) == []
    assert time.monotonic() - start < 0.1

    def answer() -> None:
        time.sleep(0.1)
        peer.channel.send([b"late"])
        peer.endpoint.flush(5)

    thread = threading.Thread(target=answer)
    thread.start()
    listener.poll(10)
    assert time.monotonic() - start < 5
    thread.join(10)
    assert listener.frames(channel)[1:] == [b"late"]


def test_one_poll_returns_a_bounded_number_of_events(rig: Rig) -> None:
    listener = rig.listen()
    peers = [rig.connect(name) for name in PARTIES]
    for peer in peers:
        peer.channel.send([b"x"] * 1000)
    calls = []
    deadline = time.monotonic() + 20
    while len(listener.frames()) < 1000 * len(peers) and time.monotonic() < deadline:
        events = listener.endpoint.poll(0.002)
        calls.append(len(events))
        listener.events += events
        for peer in peers:
            peer.poll(0)
    assert len(listener.frames()) == 1000 * len(peers)
    assert max(calls) <= MAX_EVENTS


def test_flush_waits_for_the_reader(rig: Rig) -> None:
    listener, peer, _ = rig.pair()
    peer.channel.send([bytes(1000)] * (2 * WINDOW))
    # `hello` is in the window too where reading is told in steps.
    assert peer.channel.pending in (WINDOW * 1000, (WINDOW + 1) * 1000)
    assert not peer.endpoint.flush(0.1)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            listener.poll(0.01)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert peer.endpoint.flush(10)
    finally:
        done.set()
        thread.join(10)
    assert peer.channel.pending == 0
    pump([listener, peer], lambda: len(listener.frames()) == 1 + 2 * WINDOW)


def test_a_reader_that_stopped_overflows_and_stalls_nobody_else(rig: Rig) -> None:
    listener = rig.listen(max_pending=100_000)
    stuck, quick = rig.connect(PARTIES[0]), rig.connect(PARTIES[1])
    stuck.channel.send([b"stuck"])
    pump([listener, stuck], lambda: len(listener.channels) == 1)
    quick.channel.send([b"quick"])
    pump([listener, quick], lambda: len(listener.channels) == 2)
    to_stuck, to_quick = listener.channels
    sent = 0
    with pytest.raises(ChannelOverflowError):
        while sent < 10_000:
            to_stuck.send([bytes(1000)])
            sent += 1
    assert sent >= 100
    assert to_stuck.pending == 100_000
    with pytest.raises(ChannelOverflowError):
        to_stuck.send([b"x", b"y"])
    assert to_stuck.pending == 100_000
    to_quick.send([b"%d" % number for number in range(500)])
    pump([listener, quick], lambda: len(quick.frames()) == 500)
    # Nothing that was taken is lost.
    pump([listener, stuck], lambda: len(stuck.frames()) == sent)
    assert to_stuck.pending == 0


@pytest.mark.slow
def test_five_thousand_frames_at_a_slow_reader_all_arrive(rig: Rig) -> None:
    listener, peer, channel = rig.pair()
    frames = [b"%d" % number for number in range(5000)]
    channel.send(frames)
    deadline = time.monotonic() + 20
    while len(peer.frames()) < 5000 and time.monotonic() < deadline:
        listener.poll(0.001)
        peer.poll(0.001)
        if len(peer.events) % 500 < WINDOW:
            time.sleep(0.002)
    assert peer.frames() == frames


@pytest.mark.slow
def test_the_last_words_arrive_before_the_loss(rig: Rig) -> None:
    listener, peer, channel = rig.pair()
    channel.send([b"abort"])
    listener.endpoint.close(linger=1)  # nobody reads here: it waits that long for the other side
    pump([peer], lambda: bool(peer.lost()))
    assert peer.frames() == [b"abort"]
    assert isinstance(peer.events[-1], Lost)
    assert peer.lost()[0] in ENDED
    with pytest.raises(ChannelClosedError):
        peer.channel.send([b"x"])


@pytest.mark.slow
def test_the_last_words_of_a_peer_arrive_before_the_loss(rig: Rig) -> None:
    listener, peer, channel = rig.pair()
    peer.channel.send([b"%d" % number for number in range(50)])
    peer.endpoint.close(linger=1)
    pump([listener], lambda: bool(listener.lost()))
    assert listener.frames(channel)[1:] == [b"%d" % number for number in range(50)]
    assert isinstance(listener.events[-1], Lost)
    assert listener.lost(channel)[0] in ENDED
    with pytest.raises(ChannelClosedError):
        channel.send([b"x"])


@pytest.mark.slow
def test_last_words_arrive_against_a_stream_of_frames(rig: Rig) -> None:
    """Closing over unread bytes must not take back the Abort (TCP would reset)."""
    listener, peer, channel = rig.pair()
    peer.channel.send([bytes(MAX_FRAME_BYTES)] * 40)
    channel.send([b"abort"])
    thread = threading.Thread(target=listener.endpoint.close, args=(2.0,))
    thread.start()
    pump([peer], lambda: bool(peer.lost()))
    thread.join(10)
    assert peer.frames() == [b"abort"]


def test_a_closed_channel_is_silent_here_and_lost_there(rig: Rig) -> None:
    listener, peer, channel = rig.pair()
    other = rig.connect(PARTIES[1])
    other.channel.send([b"other"])
    pump([listener, other], lambda: len(listener.channels) == 2)
    peer.channel.send([b"late"] * 10)
    time.sleep(0.05)
    channel.close()
    channel.close()
    with pytest.raises(ChannelClosedError):
        channel.send([b"x"])
    pump([listener, peer], lambda: bool(peer.lost()))
    other.channel.send([b"still here"])
    pump([listener, other], lambda: b"still here" in listener.frames())
    assert listener.frames(channel) == [b"hello"]
    assert not listener.lost()


def test_a_peer_that_closes_its_channel_is_lost(rig: Rig) -> None:
    listener, peer, channel = rig.pair()
    peer.channel.close()
    pump([listener], lambda: bool(listener.lost(channel)))
    assert peer.endpoint.poll(0.01) == []
    peer.endpoint.close()
    peer.endpoint.close(1.0)


def test_a_listener_keeps_so_many_channels_and_no_more(rig: Rig) -> None:
    listener = rig.listen(max_channels=2)
    peers = []
    for number, name in enumerate(PARTIES[:2], 1):
        peers.append(rig.connect(name))
        peers[-1].channel.send([b"x"])
        pump([listener, *peers], lambda number=number: len(listener.channels) == number)  # type: ignore[misc]
    peers.append(rig.connect(PARTIES[2]))
    peers[2].channel.send([b"x"])
    pump([listener, peers[2]], lambda: bool(peers[2].lost()))
    assert peers[2].lost() == [LostReason.FULL]
    assert len(listener.channels) == 2
    # A place that becomes free is given again.
    peers[0].endpoint.close()
    pump([listener], lambda: bool(listener.lost()))
    again = rig.connect(PARTIES[3])
    again.channel.send([b"again"])
    pump([listener, again], lambda: len(listener.channels) == 3)


def test_nobody_listens(rig: Rig) -> None:
    listener = rig.listen()
    listener.endpoint.close()
    peer = rig.connect()
    with contextlib.suppress(ChannelClosedError):  # a transport may know at once
        peer.channel.send([b"x"])
    pump([peer], lambda: bool(peer.lost()))
    assert peer.lost() == [LostReason.REFUSED]
    assert peer.endpoint.poll(0) == []
    assert peer.channel.pending == 0


def test_a_polite_close_does_not_wait_for_its_whole_linger(rig: Rig) -> None:
    listener, peer, _ = rig.pair()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            listener.poll(0.01)

    thread = threading.Thread(target=read)
    thread.start()
    start = time.monotonic()
    peer.channel.send([b"bye"])
    peer.endpoint.close(linger=1)
    assert time.monotonic() - start < 2
    done.set()
    thread.join(10)
    pump([listener], lambda: bool(listener.lost()))
    assert listener.frames()[-1] == b"bye"
    assert listener.lost() == [LostReason.CLOSED]
