"""The facts about ZeroMQ that the transport is built around, with real sockets."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq

from benchmarks.relay import Relay
from heterofed.errors import ConfigError
from heterofed.transport.base import MAX_FRAME_BYTES, LostReason
from heterofed.transport.flow_control import WINDOW
from heterofed.transport.zeromq import Heartbeat, connect, listen
from heterofed.transport.zeromq import connector as connecting
from heterofed.transport.zeromq import listener as listening
from heterofed.transport.zeromq.listener import PARTY_SHARE
from heterofed.transport.zeromq.zap import (
    DOMAIN,
    ClientKeys,
    KeyAdmission,
    ServerKeys,
    ZapHandler,
    new_key_pair,
)
from tests.transport.rigs import (
    FAST,
    PARTIES,
    Keyring,
    Party,
    Rig,
    connected,
    pump,
    start_python,
)


@contextmanager
def raw_dealer(address: str, **options: Any) -> Iterator[zmq.Socket[bytes]]:
    """A peer that does as it likes."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            dealer.setsockopt(getattr(zmq, name), value)
        dealer.connect(address)
        yield dealer


def quiet(listener: Party, seconds: float = 0.5) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        listener.poll(0.05)


# Who gets in


def test_strangers_fail_and_listed_keys_are_named(keyring: Keyring) -> None:
    listener = Party(listen("tcp://127.0.0.1:*", keys=keyring.listening()))
    address = listener.endpoint.address  # type: ignore[attr-defined]
    wrong = new_key_pair()[0]
    turned_away = {
        "unlisted key": ClientKeys(*keyring.stranger, keyring.server[0]),
        "wrong server key": ClientKeys(*keyring.parties[PARTIES[0]], wrong),
        "no keys": None,
    }
    peers = {name: connected(connect(address, keys=keys)) for name, keys in turned_away.items()}
    good = connected(connect(address, keys=keyring.connecting(PARTIES[3])))
    try:
        for peer in (*peers.values(), good):
            peer.channel.send([b"let me in"])
        pump([listener, good], lambda: bool(listener.frames()))
        for name, peer in peers.items():
            pump([listener, peer], lambda peer=peer: bool(peer.lost()), 15)  # type: ignore[misc]
            assert (name, peer.lost()) == (name, [LostReason.HANDSHAKE_FAILED])
            assert not peer.channels
        assert [channel.party for channel in listener.channels] == [PARTIES[3]]
        assert listener.frames() == [b"let me in"]
    finally:
        for peer in (*peers.values(), good, listener):
            peer.endpoint.close()


def test_the_domain_is_enforced_and_the_handler_runs_before_bind(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Watched(ZapHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            order.append("handler")

    class Socket(zmq.Socket[bytes]):
        def bind(self, addr: str) -> Any:
            if addr.startswith("tcp"):
                order.append("bind")
                assert self.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
                assert self.getsockopt(zmq.ZAP_DOMAIN) == DOMAIN
            return super().bind(addr)

    monkeypatch.setattr(listening, "ZapHandler", Watched)
    monkeypatch.setattr(zmq.Context, "_socket_class", Socket)
    listen("tcp://127.0.0.1:*", keys=keyring.listening()).close()
    assert order == ["handler", "bind"]


@pytest.mark.slow
def test_without_a_handler_nobody_gets_in(keyring: Keyring) -> None:
    endpoint = listen("tcp://127.0.0.1:*", keys=keyring.listening())
    assert endpoint._zap is not None
    endpoint._zap.stop()
    endpoint._zap = None
    listener = Party(endpoint)
    peer = connected(connect(endpoint.address, keys=keyring.connecting(PARTIES[0])))
    peer.channel.send([b"hello"])
    quiet(listener, 1.0)
    assert not listener.events
    peer.endpoint.close()
    endpoint.close()


@pytest.mark.parametrize(
    "request_",
    [
        [],
        [b"1.0"],
        [b"1.0", b"7", DOMAIN, b"::1", b"", b"NULL"],
        [b"1.0", b"7", DOMAIN, b"::1", b"", b"PLAIN", b"user", b"password"],
        [b"1.0", b"7", DOMAIN, b"::1", b"", b"CURVE", b"\0" * 32],
        [b"1.0", b"7", DOMAIN, b"::1", b"", b"CURVE", b"short"],
        [b"1.0", b"7", b"elsewhere", b"::1", b"", b"CURVE", b"\xff" * 32],
        [b"2.0", b"7", DOMAIN, b"::1", b"", b"CURVE", b"\xff" * 32],
        [b"1.0", b"7", DOMAIN, b"::1", b"", b"CURVE", b"\xff" * 32, b"more"],
        [b"\xff"] * 100,
    ],
)
def test_the_handler_answers_nonsense_with_no(request_: list[bytes]) -> None:
    allowed = frozenset({zmq.utils.z85.encode(b"\xff" * 32).decode()})
    reply = KeyAdmission(allowed).answer(request_, 0.0)
    assert reply[2] == b"400"
    assert len(reply) == 6


def test_keys_are_checked_and_secrets_are_not_shown(keyring: Keyring) -> None:
    public, secret = keyring.server
    others = {"b": keyring.stranger[0]}
    assert secret not in repr(ServerKeys(public, secret, others))
    assert secret not in repr(ClientKeys(public, secret, public))
    for bad in ("", "x" * 40 + "y", "é" * 40, "\\" * 40, "#" * 40):
        with pytest.raises(ConfigError) as caught:
            ServerKeys(public, bad, others)
        assert not bad or bad not in str(caught.value)
        with pytest.raises(ConfigError):
            ClientKeys(public, secret, bad)
    for wrong in ({}, {"b": public, "c": public}):
        with pytest.raises(ConfigError):
            ServerKeys(public, secret, wrong)
    with pytest.raises(ConfigError, match="does not belong"):
        ServerKeys(keyring.stranger[0], secret, others)


def test_one_party_cannot_take_every_place(keyring: Keyring) -> None:
    endpoint = listen("tcp://127.0.0.1:*", keys=keyring.listening(), max_channels=16)
    listener = Party(endpoint)
    greedy = [
        connected(connect(endpoint.address, keys=keyring.connecting(PARTIES[0])))
        for _ in range(PARTY_SHARE + 2)
    ]
    for peer in greedy:
        peer.channel.send([b"x"])
    pump([listener, *greedy], lambda: sum(len(peer.lost()) for peer in greedy) == 2)
    assert len(listener.channels) == PARTY_SHARE
    modest = connected(connect(endpoint.address, keys=keyring.connecting(PARTIES[1])))
    modest.channel.send([b"y"])
    pump([listener, modest], lambda: b"y" in listener.frames())
    for peer in (*greedy, modest, listener):
        peer.endpoint.close()


# What peers may send


@pytest.mark.parametrize(
    "message",
    [
        [b""],
        [b"", b""],
        [b"", b"", b""],
        [b"a", b"b"],
        [b"a", b"b", b"c"],
        [b"", b"x"],
        [b"", b"123456789"],
        [b"", (1).to_bytes(8, "big")],
        [b"", (1 << 63).to_bytes(8, "big")],
        [b"x"] * 5000,
    ],
    ids=str,
)
def test_a_malformed_message_ends_that_channel_and_nothing_else(
    plain: Rig, message: list[bytes]
) -> None:
    listener, peer, _ = plain.pair()
    endpoint = listener.endpoint
    with raw_dealer(endpoint.address) as dealer:  # type: ignore[attr-defined]
        dealer.send(b"first")
        pump([listener], lambda: len(listener.channels) == 2)
        bad = listener.channels[1]
        dealer.send_multipart(message)
        dealer.send(b"after")
        pump([listener], lambda: bool(listener.lost(bad)))
        assert listener.lost(bad) == [LostReason.MALFORMED]
        peer.channel.send([b"fine"])
        pump([listener, peer], lambda: b"fine" in listener.frames())
        assert listener.frames(bad) == [b"first"]
        assert listener.lost() == [LostReason.MALFORMED]


def test_a_malformed_first_message_opens_nothing(plain: Rig) -> None:
    listener = plain.listen()
    address = listener.endpoint.address  # type: ignore[attr-defined]
    for message in ([b""], [b"", b"x"], [b"", bytes(8)], [b"x"] * 10):
        with raw_dealer(address) as dealer:
            dealer.send_multipart(message)
            quiet(listener, 0.1)
    assert not listener.events


def test_a_malformed_listener_is_left(plain: Rig) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        address = f"ipc://{plain.folder}/r" if plain.kind == "ipc" else "tcp://127.0.0.1:*"
        router.bind(address)
        peer = connected(connect(router.getsockopt_string(zmq.LAST_ENDPOINT)))
        peer.channel.send([b"hello"])
        pump([peer], lambda: bool(router.poll(0)))
        route, frame = router.recv_multipart()
        assert frame == b"hello"
        router.send_multipart([route, b"a", b"b"])
        pump([peer], lambda: bool(peer.lost()))
        assert peer.lost() == [LostReason.MALFORMED]
        peer.endpoint.close()


def test_an_oversized_frame_disconnects(plain: Rig) -> None:
    listener, peer, _ = plain.pair()
    with raw_dealer(listener.endpoint.address) as dealer:  # type: ignore[attr-defined]
        dealer.send(b"first")
        dealer.send(bytes(10 * MAX_FRAME_BYTES))
        pump([listener], lambda: bool(listener.lost()))
        assert listener.lost(listener.channels[1]) == [LostReason.DISCONNECTED]
    with raw_dealer(listener.endpoint.address) as dealer:  # type: ignore[attr-defined]
        dealer.send(b"second")
        dealer.send(
            bytes(MAX_FRAME_BYTES + 1)
        )  # within libzmq's limit, which leaves room for CURVE
        pump([listener], lambda: len(listener.lost()) == 2)
        assert listener.lost()[1] == LostReason.MALFORMED
    assert peer.lost() == []
    assert b"first" in listener.frames()


@pytest.mark.slow
def test_a_routing_id_that_a_peer_chose_is_ignored(plain: Rig) -> None:
    listener = plain.listen()
    address = listener.endpoint.address  # type: ignore[attr-defined]
    with raw_dealer(address, ROUTING_ID=b"abcde") as dealer:
        dealer.send(b"hello")
        quiet(listener)
    assert not listener.events


def test_bytes_that_are_no_zeromq_harm_nobody(keyring: Keyring) -> None:
    listener = Party(listen("tcp://127.0.0.1:*", keys=keyring.listening()))
    address = listener.endpoint.address  # type: ignore[attr-defined]
    host, port = address.removeprefix("tcp://").split(":")
    for junk in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 10,
        b"\xff\0\0\0\0\0\0\0\1\x7f\3" + b"A" * 5000,
    ):
        with socket.create_connection((host, int(port)), 5) as client:
            client.sendall(junk)
            quiet(listener, 0.05)
    good = connected(connect(address, keys=keyring.connecting(PARTIES[1])))
    good.channel.send([b"hello"])
    pump([listener, good], lambda: listener.frames() == [b"hello"])
    good.endpoint.close()
    listener.endpoint.close()


def test_a_flooding_peer_stalls_nobody_and_its_loss_is_seen(plain: Rig) -> None:
    listener, peer, channel = plain.pair()
    stop = threading.Event()

    def flood(address: str) -> None:
        with raw_dealer(address, SNDTIMEO=100) as dealer:
            while not stop.is_set():
                try:
                    dealer.send(b"flood")
                except zmq.Again:
                    continue

    thread = threading.Thread(target=flood, args=(listener.endpoint.address,))  # type: ignore[attr-defined]
    thread.start()
    try:
        pump([listener], lambda: len(listener.frames()) > 500)
        peer.channel.send([b"in between"])
        pump([listener, peer], lambda: b"in between" in listener.frames(channel))
        peer.endpoint.close()
        pump([listener], lambda: bool(listener.lost(channel)))
    finally:
        stop.set()
        thread.join(10)


# The end of a connection

PEER = """
import sys
from heterofed.transport.zeromq import connect

assert "torch" not in sys.modules
peer = connect(sys.argv[1])
peer.channel.send([b"hello"])
while True:
    peer.poll(10)
"""


@pytest.mark.parametrize("kind", ["ipc", "tcp"])
def test_a_killed_peer_is_lost_at_once(
    kind: str, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The looks at a newcomer are over by then: only the monitor can tell.
    monkeypatch.setattr(listening, "_PROBES", (0.0, 0.02))
    rig = Rig(kind, keyring)
    listener = rig.listen()
    with start_python(PEER, rig._address) as process:
        pump([listener], lambda: bool(listener.frames()), 20)
        quiet(listener, 0.1)
        process.send_signal(signal.SIGKILL)
        start = time.monotonic()
        process.wait(10)
        pump([listener], lambda: bool(listener.lost()))
        assert time.monotonic() - start < 2
    assert listener.lost() == [LostReason.DISCONNECTED]
    rig.close()


HOST = """
import sys
from heterofed.transport.zeromq import listen

listener = listen(sys.argv[1])
while True:
    for event in listener.poll(10):
        event.channel.send([b"welcome"])
"""


@pytest.mark.parametrize("kind", ["ipc", "tcp"])
def test_a_killed_listener_is_lost_at_once(kind: str, keyring: Keyring) -> None:
    rig = Rig(kind, keyring)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"ipc://{rig.folder}/s" if kind == "ipc" else f"tcp://127.0.0.1:{port}"
    with start_python(HOST, address) as process:
        deadline = time.monotonic() + 20
        while True:
            peer = connected(connect(address))
            peer.channel.send([b"hello"])
            pump([peer], lambda peer=peer: bool(peer.lost() or peer.frames()))  # type: ignore[misc]
            if peer.frames():
                break
            peer.endpoint.close()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        start = time.monotonic()
        process.wait(10)
        pump([peer], lambda: bool(peer.lost()))
        assert time.monotonic() - start < 2
    assert peer.lost() == [LostReason.DISCONNECTED]
    peer.endpoint.close()
    rig.close()


def test_a_cut_connection_stays_cut(keyring: Keyring) -> None:
    """It is lost on both sides and not made again behind our backs."""
    endpoint = listen("tcp://127.0.0.1:*")
    listener = Party(endpoint)
    relay = Relay(endpoint.address)
    peer = connected(connect(relay.address))
    peer.channel.send([b"hello"])
    pump([listener, peer], lambda: bool(listener.frames()))
    relay.close()
    pump([listener, peer], lambda: bool(listener.lost()) and bool(peer.lost()))
    assert peer.lost() == listener.lost() == [LostReason.DISCONNECTED]
    quiet(listener)
    assert len(listener.channels) == 1
    peer.endpoint.close()
    listener.endpoint.close()


def test_frames_read_late_are_not_lost_with_the_connection(wire: Rig) -> None:
    """RECONNECT_IVL=-1 would drop all of them at the connecting side."""
    listener, peer, channel = wire.pair()
    frames = [b"%d" % number for number in range(WINDOW)]
    channel.send(frames)
    listener.endpoint.close(linger=0.1)
    time.sleep(0.3)
    pump([peer], lambda: bool(peer.lost()))
    assert peer.frames() == frames


def test_a_peer_that_closes_right_after_its_first_frame_is_seen_and_lost(wire: Rig) -> None:
    listener = wire.listen()
    for _ in range(5):
        peer = wire.connect()
        peer.channel.send([b"only"])
        pump([peer], lambda peer=peer: bool(peer.channels))  # type: ignore[misc]
        peer.endpoint.close(linger=0.02)
    time.sleep(0.1)
    pump([listener], lambda: len(listener.lost()) == 5)
    assert listener.frames() == [b"only"] * 5
    quiet(listener, 0.2)
    assert listener.endpoint._by_route == {}  # type: ignore[attr-defined]


def test_something_that_never_answers_fails_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        peer = connected(connect(f"tcp://127.0.0.1:{mute.getsockname()[1]}"))
        pump([peer], lambda: bool(peer.lost()))
        assert peer.lost() == [LostReason.HANDSHAKE_FAILED]
        peer.endpoint.close()


@pytest.mark.parametrize("address", ["nonsense", "tcp://", "ipc:///tmp/" + "x" * 200, "zzz://x"])
def test_addresses_that_cannot_be(address: str) -> None:
    with pytest.raises(ConfigError):
        listen(address)
    with pytest.raises(ConfigError):
        connect(address)


def test_an_address_in_use_is_an_error_that_names_it() -> None:
    first = listen("tcp://127.0.0.1:*")
    with pytest.raises(ConfigError, match=re.escape(first.address)):
        listen(first.address)
    first.close()


def test_an_unknown_name_is_refused() -> None:
    peer = connected(connect("tcp://no-such-host.invalid:9"))
    pump([peer], lambda: bool(peer.lost()), 30)
    assert peer.lost() == [LostReason.REFUSED]
    peer.endpoint.close()


# Dead and slow links


def stall(heartbeat: Heartbeat) -> float:
    """Seconds until both sides noticed that a link forwards nothing any more."""
    endpoint = listen("tcp://127.0.0.1:*", _heartbeat=heartbeat)
    listener = Party(endpoint)
    relay = Relay(endpoint.address)
    peer = connected(connect(relay.address, _heartbeat=heartbeat))
    try:
        peer.channel.send([b"hello"])
        pump([listener, peer], lambda: bool(listener.frames()) and bool(peer.channels))
        quiet(listener, 3 * heartbeat.interval)
        assert not listener.lost()
        relay.stalled = True
        start = time.monotonic()
        pump([listener, peer], lambda: bool(listener.lost()) and bool(peer.lost()), 20)
        return time.monotonic() - start
    finally:
        peer.endpoint.close()
        endpoint.close()
        relay.close()


@pytest.mark.slow
def test_a_dead_link_is_noticed() -> None:
    assert stall(FAST) < 2


def test_the_defaults_notice_it_within_15_seconds() -> None:
    """Ten times as slow as those of these tests, in proportion to which it is noticed."""
    usual = Heartbeat()
    assert usual.interval + usual.timeout < 15
    assert usual.interval <= 10 * FAST.interval
    assert usual.timeout <= 10 * FAST.timeout


@pytest.mark.long
def test_a_dead_link_is_noticed_within_15_seconds() -> None:
    assert stall(Heartbeat()) < 15


@pytest.mark.slow
def test_heartbeats_of_a_peer_that_computes_keep_it_alive(keyring: Keyring) -> None:
    """Its caller reads nothing for long, while as much as may be under way waits for it.

    With libzmq alone its full queue would hide the heartbeats, and the connection would be lost.
    """
    endpoint = listen("tcp://127.0.0.1:*", _heartbeat=FAST)
    listener = Party(endpoint)
    peer = connected(connect(endpoint.address, _heartbeat=FAST))
    peer.channel.send([b"hello"])
    pump([listener, peer], lambda: bool(listener.frames()))
    frames = [b"%d" % number for number in range(1000)]
    listener.channels[0].send(frames)
    quiet(listener, 2.0)
    assert not listener.lost()
    pump([listener, peer], lambda: peer.frames() == frames)
    peer.channel.send(frames)
    time.sleep(2.0)
    pump([listener, peer], lambda: listener.frames()[1:] == frames)
    assert not listener.lost()
    assert not peer.lost()
    peer.endpoint.close()
    endpoint.close()


def slow_link(heartbeat: Heartbeat, rate: float, frames: int) -> None:
    endpoint = listen("tcp://127.0.0.1:*", _heartbeat=heartbeat)
    listener = Party(endpoint)
    relay = Relay(endpoint.address, mbit=rate * 8 / 1e6)
    peer = connected(connect(relay.address, _heartbeat=heartbeat))
    try:
        peer.channel.send([bytes(MAX_FRAME_BYTES)] * frames)
        pump([listener, peer], lambda: len(listener.frames()) == frames, 110)
        assert not listener.lost()
        assert not peer.lost()
    finally:
        peer.endpoint.close()
        endpoint.close()
        relay.close()


@pytest.mark.slow
def test_large_frames_over_a_slow_link_survive_heartbeats() -> None:
    slow_link(FAST, rate=4e6, frames=10)


@pytest.mark.long
def test_large_frames_over_a_very_slow_link_survive_heartbeats() -> None:
    """The same, ten times as slow in everything."""
    slow_link(Heartbeat(), rate=4e5, frames=12)


# Hygiene


def test_nothing_stays_behind(wire: Rig) -> None:
    before = set(threading.enumerate())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        listener, peer, _ = wire.pair()
        started = {thread.name for thread in set(threading.enumerate()) - before}
        door, zap = {"heterofed-limiter"}, {"heterofed-zap"}
        assert started == {"ipc": set(), "tcp": door, "curve": door | zap}[wire.kind]
        peer.endpoint.close(0.1)
        listener.endpoint.close(0.1)
    assert set(threading.enumerate()) == before
