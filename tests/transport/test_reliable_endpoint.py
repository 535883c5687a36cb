"""Links over real connections that are cut: hundreds of times, for too long, on purpose."""

from __future__ import annotations

import random
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.relay import Relay
from heterofed.errors import ConfigError
from heterofed.transport.base import Lost, LostReason, Opened, Received
from heterofed.transport.flow_control import WINDOW
from heterofed.transport.memory import Hub
from heterofed.transport.reliable import endpoint as links_module
from heterofed.transport.reliable.connector import ReliableConnector
from heterofed.transport.reliable.handshake import Hello
from heterofed.transport.reliable.link import GRACE_SECONDS, RETURN_SECONDS
from heterofed.transport.reliable.listener import PARTY_LINKS, ReliableListener
from heterofed.transport.zeromq import Heartbeat, connect, listen
from heterofed.transport.zeromq.zap import ClientKeys
from tests.transport.rigs import FAST, PARTIES, Keyring, Party, connected, pump

pytestmark = pytest.mark.slow


class Lines:
    """A reliable listener behind a relay, and whoever connects through it."""

    def __init__(self, keyring: Keyring | None = None, **settings: Any) -> None:
        self._stack = ExitStack()
        self._keyring = keyring
        self.settings: dict[str, Any] = {"grace": 5.0, **settings}
        self._heartbeat = self.settings.pop("heartbeat", None)
        self._grace = self.settings["grace"]
        self.listener = self.listen("tcp://127.0.0.1:*")
        self.relay = Relay(self.listener.endpoint.address)  # type: ignore[attr-defined]
        self._stack.callback(self.relay.close)

    def listen(self, address: str) -> Party:
        keys = self._keyring.listening() if self._keyring else None
        below = listen(address, keys=keys, _heartbeat=self._heartbeat)
        return self._keep(Party(ReliableListener(below, **self.settings)))

    def connect(self, name: str = PARTIES[0]) -> Party:
        keys = self._keyring.connecting(name) if self._keyring else None
        endpoint = ReliableConnector(self.dialler(keys), grace=self._grace)
        return self._keep(connected(endpoint))

    def dialler(self, keys: ClientKeys | None) -> Callable[[], Any]:
        return lambda: connect(self.relay.address, keys=keys, _heartbeat=self._heartbeat)

    def pair(self) -> tuple[Party, Party]:
        peer = self.connect()
        peer.channel.send([b"hello"])
        both = [self.listener, peer]
        pump(both, lambda: bool(self.listener.frames()) and bool(peer.channels))
        return self.listener, peer

    def _keep(self, party: Party) -> Party:
        self._stack.callback(party.endpoint.close)
        return party

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines = Lines()
    yield lines
    lines.close()


@pytest.fixture(params=["tcp", "curve"])
def both_lines(request: pytest.FixtureRequest, keyring: Keyring) -> Iterator[Lines]:
    """With and without keys."""
    lines = Lines(keyring if request.param == "curve" else None)
    yield lines
    lines.close()


def open_descriptors() -> int:
    """How many this process has, where the system tells."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


# Cuts that nobody above notices


def test_hundreds_of_cuts_change_nothing_but_time(both_lines: Lines) -> None:
    listener, peer = both_lines.pair()
    channel = listener.channels[0]
    rng = random.Random(1)
    there: list[bytes] = []
    back: list[bytes] = []
    descriptors = open_descriptors()
    deadline, number = time.monotonic() + 240, 0
    while both_lines.relay.cuts < 150 and time.monotonic() < deadline:
        number += 1
        for end, sent in ((peer.channel, there), (channel, back)):
            frames = [rng.randbytes(rng.choice([10, 1000, 100_000])) for _ in range(3)]
            end.send(frames)
            sent.extend(frames)
        for _ in range(rng.randrange(4)):
            listener.poll(0.002)
            peer.poll(0.002)
        both_lines.relay.cut(mid_message=number % 4 == 0)
        if number % 10 == 0:  # let it come so far that there is something to cut
            pump([listener, peer], lambda: len(peer.frames()) == len(back), 120)
    pump([listener, peer], lambda: peer.frames() == back and listener.frames()[1:] == there, 120)
    assert both_lines.relay.cuts >= 150
    assert peer.endpoint.redials >= 20  # type: ignore[attr-defined]
    assert not listener.lost()
    assert not peer.lost()
    assert len(listener.channels) == 1
    assert open_descriptors() < descriptors + 30


def test_a_link_over_any_other_transport() -> None:
    hub = Hub()
    below = hub.listen()
    listener = Party(ReliableListener(below, grace=5.0))
    peer = connected(ReliableConnector(lambda: hub.connect("bob"), grace=5.0))
    sent = [b"%d" % number for number in range(500)]
    for start in range(0, 500, 5):
        peer.channel.send(sent[start : start + 5])
        for channel in below.channels[:1]:
            hub.cut(channel)
        listener.poll(0)
        peer.poll(0)
    pump([listener, peer], lambda: listener.frames() == sent)
    assert [channel.party for channel in listener.channels] == ["bob"]
    peer.endpoint.close(1.0)
    listener.endpoint.close()


def test_what_is_sent_while_nobody_is_there_arrives_later(lines: Lines) -> None:
    listener, peer = lines.pair()
    lines.relay.close()
    pump([listener, peer], lambda: _is_down(listener) and _is_down(peer))
    frames = [b"%d" % number for number in range(3 * WINDOW)]
    peer.channel.send(frames)
    listener.channels[0].send(frames)
    assert not peer.endpoint.flush(0.2)
    lines.relay = Relay(_below(listener), listen=lines.relay.address)
    try:
        pump([listener, peer], lambda: listener.frames()[1:] == frames == peer.frames())
    finally:
        lines.relay.close()


@pytest.mark.long
def test_a_cut_while_the_owner_computes_is_mended_meanwhile() -> None:
    """Neither side is called for longer than the grace, and the link is still there."""
    lines = Lines(grace=1.5)
    listener, peer = lines.pair()
    lines.relay.cut()
    for _ in range(30):  # the Host waits, the Collaborator computes
        listener.poll(0.1)
    assert not listener.lost()
    lines.relay.cut()
    for _ in range(30):  # and the other way round
        peer.poll(0.1)
    peer.channel.send([b"done"])
    pump([listener, peer], lambda: b"done" in listener.frames())
    assert not listener.lost()
    assert not peer.lost()
    lines.close()


def test_last_words_arrive_though_the_connection_is_cut(lines: Lines) -> None:
    listener, peer = lines.pair()
    words = [bytes(100_000)] * 20 + [b"abort"]
    peer.channel.send(words)
    thread = threading.Thread(target=peer.endpoint.close, args=(10.0,))
    thread.start()
    for _ in range(5):
        listener.poll(0.05)
        lines.relay.cut()
    pump([listener], lambda: bool(listener.lost()))
    thread.join(10)
    assert listener.frames()[1:] == words
    assert listener.lost() == [LostReason.CLOSED]


# Losses, and how soon they show


def _is_down(party: Party) -> bool:
    return all(channel.link.is_down for channel in party.endpoint._channels())  # type: ignore[attr-defined]


def _below(listener: Party) -> str:
    return str(listener.endpoint.address)  # type: ignore[attr-defined]


def test_what_does_not_come_back_is_lost_after_the_grace() -> None:
    lines = Lines(grace=1.0)
    listener, peer = lines.pair()
    lines.relay.close()
    start = time.monotonic()
    pump([listener, peer], lambda: bool(listener.lost()) and bool(peer.lost()))
    assert 0.5 < time.monotonic() - start < 4
    assert listener.lost() == peer.lost() == [LostReason.DISCONNECTED]
    assert isinstance(peer.events[-1], Lost)
    lines.close()


def seconds_until_a_stall_shows(heartbeat: Heartbeat | None, grace: float) -> float:
    lines = Lines(heartbeat=heartbeat, grace=grace)
    listener, peer = lines.pair()
    for _ in range(10):
        listener.poll(0.05)
        peer.poll(0.05)
    lines.relay.stalled = True
    start = time.monotonic()
    pump([listener, peer], lambda: bool(listener.lost()) and bool(peer.lost()), 30)
    seconds = time.monotonic() - start
    assert listener.lost() == peer.lost() == [LostReason.DISCONNECTED]
    lines.close()
    return seconds


def test_a_dead_link_is_lost() -> None:
    assert seconds_until_a_stall_shows(FAST, 2.0) < 6


def test_the_usual_grace_ends_within_15_seconds() -> None:
    """What `test_a_dead_link_is_lost` measures with a shorter grace, added up for the usual."""
    noticed = Heartbeat().interval + Heartbeat().timeout
    assert max(GRACE_SECONDS, noticed + RETURN_SECONDS) < 15


@pytest.mark.long
def test_a_dead_link_is_lost_within_15_seconds() -> None:
    assert seconds_until_a_stall_shows(None, GRACE_SECONDS) < 15


def test_a_new_way_past_a_dead_connection_is_found() -> None:
    """The old connection says nothing any more, as behind a router that forgot it."""
    lines = Lines(heartbeat=FAST, grace=10.0)
    listener, peer = lines.pair()
    dead, lines.relay = lines.relay, Relay(_below(listener))
    dead.stalled = True
    frames = [b"%d" % number for number in range(100)]
    peer.channel.send(frames)
    listener.channels[0].send(frames)
    pump([listener, peer], lambda: listener.frames()[1:] == frames == peer.frames())
    assert not listener.lost()
    dead.close()
    lines.relay.close()
    lines.close()


def test_a_listener_that_was_started_anew_ends_the_link_at_once(both_lines: Lines) -> None:
    listener, peer = both_lines.pair()
    address = _below(listener)
    listener.endpoint._listener.close()  # type: ignore[attr-defined] # as if killed
    again = both_lines.listen(address)
    start = time.monotonic()
    pump([again, peer], lambda: bool(peer.lost()))
    assert time.monotonic() - start < 3
    assert peer.lost() == [LostReason.FORGOTTEN]
    assert not again.events


def test_a_party_that_was_started_anew_ends_its_old_link_at_once(keyring: Keyring) -> None:
    lines = Lines(keyring, grace=60.0)
    listener, peer = lines.pair()
    peer.endpoint._hang_up()  # type: ignore[attr-defined] # as if killed
    peer.endpoint._channel.over = True  # type: ignore[attr-defined]
    pump([listener], lambda: _is_down(listener))
    assert not listener.lost()
    again = lines.connect(PARTIES[0])
    again.channel.send([b"again"])
    pump([listener, again], lambda: len(listener.channels) == 2)
    assert listener.lost(listener.channels[0]) == [LostReason.DISCONNECTED]
    kinds = [type(event) for event in listener.events]
    assert kinds.index(Lost) < len(kinds) - 1 - kinds[::-1].index(Opened)
    lines.close()


def test_a_peer_that_closed_while_cut_is_lost_when_it_is_asked(lines: Lines) -> None:
    listener, peer = lines.pair()
    lines.relay.cut()
    listener.channels[0].close()
    pump([listener, peer], lambda: bool(peer.lost()))
    assert peer.lost()[0] in (LostReason.FORGOTTEN, LostReason.CLOSED)
    assert not listener.lost()


# Strangers


def test_nobody_goes_on_with_the_link_of_another(keyring: Keyring) -> None:
    """A listed party that has stolen the token of another one."""
    lines = Lines(keyring)
    listener, peer = lines.pair()
    thief = connect(lines.relay.address, keys=keyring.connecting(PARTIES[1]))
    stolen = Hello(peer.channel.token, True, 0, 0)  # type: ignore[attr-defined]
    thief.channel.send([stolen.encode()])
    got = connected(thief)
    pump([listener, peer, got], lambda: bool(got.lost()))
    assert got.frames() == [b"xu"]
    assert got.lost() == [LostReason.CLOSED]
    peer.channel.send([b"still mine"])
    pump([listener, peer], lambda: b"still mine" in listener.frames())
    assert not listener.lost()
    thief.close()
    lines.close()


@pytest.mark.parametrize("first", [b"junk", bytes(1000), b"h\x01" + bytes(33)], ids=len)
def test_a_connection_that_does_not_begin_like_a_link_is_closed(lines: Lines, first: bytes) -> None:
    listener, peer = lines.pair()
    stranger = connected(connect(lines.relay.address))
    stranger.channel.send([first, b"more", b"more"])
    if len(first) == 35:  # a Hello: what follows is wrong then
        pump([listener, stranger], lambda: bool(stranger.lost()))
    pump([listener, stranger], lambda: bool(stranger.lost()))
    assert stranger.lost() == [LostReason.CLOSED]
    peer.channel.send([b"fine"])
    pump([listener, peer], lambda: b"fine" in listener.frames())
    assert not listener.lost()
    assert len(listener.channels) == 1
    stranger.endpoint.close()


def test_a_peer_that_breaks_the_rules_is_lost(lines: Lines) -> None:
    listener, _ = lines.pair()
    stranger = connected(connect(lines.relay.address))
    packet = b"p" + (1).to_bytes(8, "big") + bytes(8) + bytes(2)
    stranger.channel.send([Hello(bytes(16), False, 0, 0).encode(), packet + b"good", b"bad"])
    pump([listener, stranger], lambda: bool(listener.lost()))
    assert listener.lost(listener.channels[1]) == listener.lost() == [LostReason.MALFORMED]
    assert listener.frames() == [b"hello", b"good"]
    stranger.endpoint.close()


def begins_and_ends(lines: Lines, keys: ClientKeys | None, frames: int) -> list[bytes]:
    """A link that brings so many frames of a MiB and is over; gives what it heard."""
    peer = connected(connect(lines.relay.address, keys=keys))
    peer.channel.send([Hello(secrets.token_bytes(16), False, 0, 0).encode()])
    pump([peer], lambda: bool(peer.frames()))
    if peer.frames()[0][:1] == b"w":
        packet = struct.pack(">cQQH", b"p", 1, 0, frames)
        end = struct.pack(">cQ", b"e", frames)
        peer.channel.send([packet, *[bytes(1 << 20)] * frames, end])
        pump([peer], lambda: bool(peer.lost()))
    peer.endpoint.close()
    return peer.frames()


def test_links_that_are_over_hold_their_places_until_they_were_read(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "KEEP_SECONDS", 0.02)
    lines = Lines(keyring, first_frames=4)
    listener, endpoint = lines.listener, lines.listener.endpoint
    bob = keyring.connecting(PARTIES[0])
    heard = [begins_and_ends(lines, bob, 4)[0] for _ in range(12)]  # the owner is away
    assert [frame[:1] for frame in heard] == [b"w"] * PARTY_LINKS + [b"x"] * 8
    assert set(heard[PARTY_LINKS:]) == {b"xf"}
    held = [event for event in endpoint._events if isinstance(event, Received)]  # type: ignore[attr-defined]
    assert sum(len(event.frame) for event in held) == PARTY_LINKS * 4 << 20
    carol = lines.connect(PARTIES[1])
    carol.channel.send([b"carol"])
    pump([carol], lambda: bool(carol.channels) and carol.endpoint.flush(0))
    listener.poll(0.1)
    pump([listener], lambda: b"carol" in listener.frames())
    assert len(listener.frames()) == PARTY_LINKS * 4 + 1
    assert listener.lost() == [LostReason.CLOSED] * PARTY_LINKS
    again = lines.connect(PARTIES[0])
    again.channel.send([b"bob"])
    pump([listener, again], lambda: b"bob" in listener.frames())
    assert not again.lost()
    assert not carol.lost()
    lines.close()


def test_unproven_links_that_are_over_hold_their_places_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links_module, "KEEP_SECONDS", 0.02)
    lines = Lines(max_channels=6)
    heard = [begins_and_ends(lines, None, 1)[0] for _ in range(9)]
    assert [frame[:1] for frame in heard] == [b"w"] * 6 + [b"x"] * 3
    pump([lines.listener], lambda: len(lines.listener.lost()) == 6)
    assert begins_and_ends(lines, None, 1)[0][:1] == b"w"
    lines.close()


def test_links_that_say_nothing_hold_no_place_for_ever() -> None:
    lines = Lines(grace=0.3, max_channels=2)
    silent = [lines.connect() for _ in range(2)]
    pump([lines.listener, *silent], lambda: len(lines.listener.endpoint._channels()) == 2)  # type: ignore[attr-defined]
    turned_away = lines.connect()
    pump([lines.listener, turned_away], lambda: bool(turned_away.lost()))
    assert turned_away.lost() == [LostReason.FULL]
    pump([lines.listener, *silent], lambda: all(each.lost() for each in silent))
    assert not lines.listener.events
    late = lines.connect()
    late.channel.send([b"late"])
    pump([lines.listener, late], lambda: lines.listener.frames() == [b"late"])
    lines.close()


# Hygiene


def test_no_thread_and_no_socket_stays_behind(both_lines: Lines) -> None:
    before = {thread for thread in threading.enumerate() if thread.name == "heterofed-link"}
    _, peer = both_lines.pair()
    assert len(threading.enumerate()) > len(before)
    peer.endpoint.close(0.5)
    both_lines.listener.endpoint.close()
    assert not [each for each in threading.enumerate() if each.name == "heterofed-link"]


def test_what_breaks_in_the_thread_reaches_the_owner(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, peer = lines.pair()
    monkeypatch.setattr(links_module, "KEEP_SECONDS", 0.05)

    burst_in: list[str] = []

    def burst(wait: float) -> list[Any]:
        burst_in.append(threading.current_thread().name)
        raise MemoryError

    monkeypatch.setattr(peer.endpoint, "_listen", burst)
    deadline = time.monotonic() + 60
    while not burst_in:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    peer.endpoint._keeper.join(60)  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert burst_in == ["heterofed-link"]
    with pytest.raises(MemoryError):
        peer.endpoint.poll(0)


def test_a_dial_that_fails_here_is_tried_again(lines: Lines) -> None:
    listener, peer = lines.pair()
    good = peer.endpoint._dial  # type: ignore[attr-defined]
    failed: list[int] = []

    def dial() -> Any:
        if len(failed) < 2:
            failed.append(1)
            raise ConfigError("too many open files")
        return good()

    peer.endpoint._dial = dial  # type: ignore[attr-defined]
    lines.relay.cut()
    peer.channel.send([b"after"])
    pump([listener, peer], lambda: b"after" in listener.frames())
    assert len(failed) == 2


def test_nobody_listens_is_said_at_once_and_not_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    peer = connected(ReliableConnector(lambda: connect(f"tcp://127.0.0.1:{port}")))
    pump([peer], lambda: bool(peer.lost()))
    assert peer.lost() == [LostReason.REFUSED]
    peer.endpoint.close()
