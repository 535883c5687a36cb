"""Nobody talks a party into an older protocol, or into doing without keys."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from heterofed.identity.keys import load_key
from heterofed.transport import zeromq
from heterofed.transport.base import Lost, LostReason, Opened, Received
from heterofed.transport.zeromq.zap import ClientKeys
from tests.adversarial.peers import place

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
READY = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
NULL = SIGNATURE + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
PLAIN = SIGNATURE + b"\x03\x00" + b"PLAIN".ljust(20, b"\0") + bytes(32)
CURVE = SIGNATURE + b"\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)

VISITORS = {
    "ZMTP 1.0": [b"\x01\x00", b"\x06\x00hello", b"\x06\x00hello"],
    "ZMTP 2.0": [SIGNATURE + b"\x01\x05", b"\x00\x00", b"\x00\x05hello"],
    "NULL": [NULL, READY, b"\x00\x05hello"],
    "PLAIN": [PLAIN, b"\x04\x0e\x05HELLO\x03bob\x03bob", READY, b"\x00\x05hello"],
    "CURVE, and ready at once": [CURVE, READY, b"\x00\x05hello"],
    "CURVE, and a message at once": [CURVE, b"\x00\x05hello"],
}


@pytest.mark.slow
@pytest.mark.parametrize("visitor", VISITORS)
def test_a_host_with_keys(visitor: str, office: Path) -> None:
    with place("alice").listen() as endpoint:
        port = int(endpoint.address.rpartition(":")[2])  # type: ignore[attr-defined]
        with socket.create_connection(("127.0.0.1", port), 10) as link:
            ended = False
            for chunk in VISITORS[visitor]:
                with contextlib.suppress(OSError):
                    link.sendall(chunk)
                assert endpoint.poll(0.2) == []
            deadline = time.monotonic() + 30
            link.settimeout(0.05)
            while not ended and time.monotonic() < deadline:
                assert endpoint.poll(0.05) == []
                with contextlib.suppress(TimeoutError):
                    try:
                        ended = link.recv(4096) == b""
                    except ConnectionError:
                        ended = True
            assert ended
        assert endpoint.poll(0.2) == []
        endpoint.close()


HOSTS = {
    "ZMTP 1.0": [b"\x01\x00"] * 4,
    "ZMTP 2.0": [SIGNATURE + b"\x01\x06", b"\x00\x00", b"\x00\x01x"],
    "NULL": [NULL, READY.replace(b"DEALER", b"ROUTER"), b"\x00\x01x"],
    "CURVE, and ready at once": [CURVE, READY.replace(b"DEALER", b"ROUTER"), b"\x00\x01x"],
}


@pytest.mark.parametrize("host", HOSTS)
def test_a_collaborator_with_keys(host: str, office: Path) -> None:
    seen = bytearray()

    def serve(server: socket.socket) -> None:
        link, _ = server.accept()
        link.settimeout(0.5)
        with link, contextlib.suppress(ConnectionError):
            for chunk in HOSTS[host]:
                link.sendall(chunk)
                with contextlib.suppress(TimeoutError):
                    seen.extend(link.recv(1 << 16))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        bob, alice = load_key("bob", office), load_key("alice", office)
        keys = ClientKeys(bob.public, bob.secret, alice.public)
        peer = zeromq.connect(f"tcp://127.0.0.1:{server.getsockname()[1]}", keys=keys)
        peer.channel.send([b"what bob has to say" * 10])
        reasons: list[LostReason] = []
        deadline = time.monotonic() + 30
        while not reasons and time.monotonic() < deadline:
            for event in peer.poll(0.1):
                assert not isinstance(event, Opened | Received)
                reasons += [event.reason] if isinstance(event, Lost) else []
        peer.close()
        thread.join(10)
    assert reasons == [LostReason.HANDSHAKE_FAILED]
    assert b"what bob" not in seen
