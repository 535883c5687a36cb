"""What comes to the port costs a bounded number of descriptors and bytes, whoever sends it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from heterofed.transport.base import Endpoint, Received
from heterofed.transport.reliable.handshake import Hello
from heterofed.transport.reliable.link import GRACE_SECONDS
from heterofed.transport.zeromq import limiter
from heterofed.transport.zeromq.limiter import MAX_SILENT, ConnectionLimiter
from tests.adversarial.flood import GREETING
from tests.adversarial.peers import place
from tests.adversarial.test_bad_frames import dealer
from tests.adversarial.test_floods import resident

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what came")


@pytest.fixture
def door(offices: Path) -> Iterator[Endpoint]:
    """The Host's endpoint, and nobody behind it."""
    with place("alice").listen() as endpoint:
        yield endpoint
        endpoint.close()


def port(endpoint: Any) -> int:
    return int(endpoint.address.rpartition(":")[2])


def until(holds: Callable[[], bool], endpoint: Endpoint, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "never"
        endpoint.poll(0.05)


def is_closed(link: socket.socket) -> bool:
    """Whether the other side has closed it; what it said before is read."""
    link.setblocking(False)
    try:
        while link.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def end_of(peer: zmq.Socket[bytes]) -> Iterator[zmq.Socket[bytes]]:
    """Tells when its connection has ended."""
    monitor = peer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    try:
        yield monitor
    finally:
        peer.disable_monitor()
        monitor.close()


@pytest.mark.slow
def test_a_crowd_is_thinned_at_once(door: Endpoint) -> None:
    with contextlib.ExitStack() as stack:
        links = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port(door)), 10))
            for _ in range(MAX_SILENT + 50)
        ]
        until(lambda: sum(map(is_closed, links)) >= 50, door, seconds=4)  # before any times out
        assert not any(map(is_closed, links[-50:]))  # the oldest went


@pytest.mark.slow
def test_half_a_command_takes_no_room(door: Endpoint) -> None:
    """What strangers sent of commands that never end was all kept, a MiB of each."""
    body = struct.pack(">BQ", 6, 1 << 20) + bytes((1 << 20) - 10)
    before = resident()
    most = 0
    with contextlib.ExitStack() as stack:
        for _ in range(400):
            link = stack.enter_context(socket.create_connection(("127.0.0.1", port(door)), 10))
            with contextlib.suppress(OSError):
                link.sendall(GREETING)
                link.settimeout(10)
                link.sendall(body)
            door.poll(0)
            most = max(most, resident() - before)
    assert most < 250 << 20, f"{most >> 20} MiB"


@pytest.mark.slow
def test_whoever_is_let_in_must_say_something(
    door: Endpoint, offices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter, "FIRST_MESSAGE_SECONDS", 2.0)
    with (
        dealer(offices) as silent,
        dealer(offices) as honest,
        end_of(silent) as its_end,
        end_of(honest) as no_end,
    ):
        honest.send(Hello(bytes(16), False, 0, 0).encode())
        until(lambda: bool(its_end.poll(0)), door)
        assert not no_end.poll(0)


@on_linux
@pytest.mark.parametrize("first", [True, False], ids=["at once", "after a greeting"])
def test_a_message_of_endless_parts_ends_its_connection(
    first: bool, door: Endpoint, offices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter, "MAX_BEHIND", 24 << 20)
    before, most = resident(), 0
    with dealer(offices) as peer, end_of(peer) as ended:
        if not first:
            peer.send(Hello(bytes(16), False, 0, 0).encode())
            until(lambda: bool(peer.poll(0)), door)
        part = zmq.Frame(bytes(1 << 20))
        for _ in range(2000):  # 2 GiB, and libzmq sends nothing before the last one
            peer.send(part, zmq.SNDMORE, copy=False)
        peer.send(b"end")
        deadline = time.monotonic() + 60
        while not ended.poll(0):
            assert time.monotonic() < deadline, "never"
            assert not any(isinstance(each, Received) for each in door.poll(0.02))
            most = max(most, resident() - before)
    assert most < 512 << 20, f"{most >> 20} MiB"


def test_one_party_does_not_take_all_links(door: Endpoint, offices: Path) -> None:
    """Each said Hello to the link and nothing more; carol could get in 14 s later."""
    with contextlib.ExitStack() as stack:
        greedy = [stack.enter_context(dealer(offices)) for _ in range(30)]
        for number, each in enumerate(greedy):
            each.send(Hello(number.to_bytes(16, "big"), False, 0, 0).encode())
        began = time.monotonic()
        until(lambda: sum(bool(each.poll(0)) for each in greedy) == len(greedy), door)
        assert len(door._links) == 4  # type: ignore[attr-defined]
        carol = place("carol").connect()
        stack.callback(carol.close)

        def is_in() -> bool:
            carol.poll(0)
            return bool(carol._channel.link.confirmed)  # type: ignore[attr-defined]

        until(is_in, door)
        assert time.monotonic() - began < GRACE_SECONDS or len(door._links) > 1  # type: ignore[attr-defined]


@pytest.mark.slow
def test_newcomers_are_kept_few_frames_of(
    door: Endpoint, offices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody polls, as where a hook computes: a thread reads, and sends away who says too much."""
    monkeypatch.setattr(limiter, "LEAVE_SECONDS", 0.5)
    with dealer(offices) as peer, end_of(peer) as ended:
        peer.send(Hello(bytes(16), False, 0, 0).encode())
        assert peer.poll(20_000)
        peer.recv()
        peer.send(struct.pack(">cQQH", b"p", 1, 0, 64))
        for _ in range(64):
            peer.send(bytes(1 << 18))
        assert ended.poll(30_000)
    assert len(door._events) < 10  # type: ignore[attr-defined]


# -- the connection limiter alone ------------------------------------------------------------------


@pytest.fixture
def alone() -> Iterator[ConnectionLimiter]:
    with zmq.Context() as context, context.socket(zmq.PAIR) as monitor:
        monitor.bind("inproc://monitor")
        found = ConnectionLimiter(context, "inproc://monitor", 1 << 20)
        yield found
        found.stop()


def test_anothers_descriptor_is_left_alone(alone: ConnectionLimiter, tmp_path: Path) -> None:
    ours, theirs = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    alone.port = ours.getsockname()[1]
    other = socket.create_connection(theirs.getsockname())
    out = socket.create_connection(ours.getsockname())  # from here, not to here
    came, _ = ours.accept()
    accepted, _ = theirs.accept()
    file = (tmp_path / "file").open("w")
    closed = os.dup(0)
    os.close(closed)
    for fd in (other.fileno(), out.fileno(), accepted.fileno(), file.fileno(), ours.fileno(),
               closed, came.fileno()):  # fmt: skip
        with alone._lock:
            alone._entries[fd] = limiter._Entry("", None)
            alone._close(fd)
    file.write("x")
    file.close()
    other.sendall(b"x")
    assert accepted.recv(1) == b"x"
    assert out.recv(1) == b""  # only `came` was shut down
    again = socket.create_connection(ours.getsockname())
    for each in (ours, theirs, other, out, came, accepted, again):
        each.close()


def test_a_crowd_from_one_address_keeps_no_other_one_out(alone: ConnectionLimiter) -> None:
    with alone._lock:
        alone._entries[10**6] = limiter._Entry("192.0.2.1", 1e12)
        for fd in range(10**6 + 1, 10**6 + MAX_SILENT + 30):
            alone._entries[fd] = limiter._Entry("198.51.100.7", 1e12)
        going = list(alone._surplus(0.0))
        alone._entries.clear()
    assert going == list(range(10**6 + 1, 10**6 + 31))


def test_whoever_was_heard_may_stay_until_it_is_left(alone: ConnectionLimiter) -> None:
    class Reads:
        came = 0

    now = time.monotonic()
    with alone._lock:
        alone._entries[10**6] = limiter._Entry("", now + 1)
        assert list(alone._surplus(now + 1)) == [10**6]
    alone.heard(10**6, Reads())
    with alone._lock:
        assert list(alone._surplus(now + 1000)) == []
    alone.left(10**6)
    with alone._lock:
        assert list(alone._surplus(now + 1000)) == [10**6]
        alone._entries.clear()
