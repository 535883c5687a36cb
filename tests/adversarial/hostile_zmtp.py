"""What a peer may say to libzmq itself: greetings, mechanisms, properties, commands, frames, ends.

`misbehave` plays one connection, drawn from a seeded generator; whatever the other side does about
it is its affair, as long as its process lives.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from random import Random

from nacl.exceptions import CryptoError

from tests.adversarial.zmtp import (
    COMMAND,
    LONG,
    MORE,
    Keys,
    Wire,
    command,
    framed,
    greeting,
    handshake,
    properties,
)

FIRST_UNSEEDED = 0x6B8B4567
"""Where ROUTER's counter began as long as nobody seeded glibc's `rand()`."""

MECHANISMS = [b"NULL", b"PLAIN", b"CURVE", b"GSSAPI", b"", b"\xff" * 20, b"NULLL"]
SOCKET_TYPES = [b"DEALER", b"ROUTER", b"REQ", b"REP", b"PUB", b"SUB", b"XPUB", b"XSUB", b"PAIR",
                b"PUSH", b"PULL", b"STREAM", b"", b"x" * 300, b"DEALER\0"]  # fmt: skip
NAMES = [b"READY", b"HELLO", b"WELCOME", b"INITIATE", b"MESSAGE", b"ERROR", b"PING", b"PONG",
         b"SUBSCRIBE", b"CANCEL", b"JOIN", b"LEAVE", b"", b"x" * 255]  # fmt: skip
SIZES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 31, 32, 33, 34, 63, 64, 72, 199, 255, 256, 1 << 13]
LENGTHS = [0, 255, 1 << 20, (1 << 20) + 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def some_bytes(draw: Random) -> bytes:
    size = draw.choice(SIZES)
    return draw.choice([bytes(size), b"\xff" * size, draw.randbytes(size)])


def a_routing_id(draw: Random) -> bytes:
    """None, one that ROUTER might make, or another one."""
    made = b"\0" + struct.pack(">I", (FIRST_UNSEEDED + draw.randrange(300)) % 2**32)
    return draw.choice([b"", made, made, made[:4], made + b"x", b"me", some_bytes(draw)])


def some_properties(draw: Random) -> bytes:
    """Right ones, wrong ones, and what is none."""
    fields = {b"Socket-Type": draw.choice(SOCKET_TYPES), b"Identity": a_routing_id(draw)}
    if draw.random() < 0.6:
        fields[b"Socket-Type"] = b"DEALER"
    if draw.random() < 0.3:
        fields |= {draw.randbytes(draw.randrange(1, 20)): some_bytes(draw) for _ in range(20)}
        fields |= {name: some_bytes(draw) for name in (b"User-Id", b"Peer-Address", b"Resource")}
    encoded = properties(fields)
    match draw.randrange(5):
        case 0:
            return encoded[: draw.randrange(len(encoded))]
        case 1:
            return encoded + b"\x05Again" + struct.pack(">I", draw.choice(LENGTHS) % 2**32)
        case 2:
            at = draw.randrange(len(encoded))
            return encoded[:at] + draw.randbytes(1) + encoded[at + 1 :]
    return encoded


def a_command(draw: Random) -> bytes:
    body = some_bytes(draw)
    if draw.random() < 0.2:
        return body
    if draw.random() < 0.2:
        return bytes([draw.randrange(256)]) + draw.choice(NAMES) + body  # a length that lies
    return command(draw.choice(NAMES), body)


# -- what one connection does ----------------------------------------------------------------------


def babbles(wire: Wire, keys: Keys | None, draw: Random) -> None:
    """Anything, from the first byte on."""
    for _ in range(draw.randrange(1, 4)):
        wire.raw(some_bytes(draw))


def greets_otherwise(wire: Wire, keys: Keys | None, draw: Random) -> None:
    """Versions and mechanisms that are not ours, and something behind them."""
    said = bytearray(
        greeting(
            draw.choice(MECHANISMS),
            major=draw.choice([0, 1, 2, 3, 4, 255]),
            minor=draw.choice([0, 1, 2, 255]),
            server=draw.random() < 0.5,
        )
    )
    if draw.random() < 0.4:
        said[draw.randrange(len(said))] = draw.randrange(256)
    wire.raw(bytes(said[: draw.choice([1, 9, 10, 11, 12, 32, 64, 64, 64])]))
    for _ in range(draw.randrange(5)):
        wire.raw(framed(a_routing_id(draw) if draw.random() < 0.4 else a_command(draw),
                        draw.choice([0, COMMAND, MORE, LONG])))  # fmt: skip


def old_version(wire: Wire, keys: Keys | None, draw: Random) -> None:
    """ZMTP 1.0 or 2.0, in which the routing id is the first message."""
    start = draw.choice([b"", b"\xff" + bytes(8) + b"\x7f" + bytes([draw.randrange(3), 5])])
    wire.raw(start + framed(a_routing_id(draw)))
    for _ in range(draw.randrange(4)):
        wire.raw(framed(some_bytes(draw), draw.choice([0, MORE])))


def breaks_the_handshake(wire: Wire, keys: Keys | None, draw: Random) -> None:
    """The right greeting, and then commands that are not the ones of the handshake."""
    wire.greet(b"NULL" if keys is None else b"CURVE")
    for _ in range(draw.randrange(1, 5)):
        wire.raw(framed(a_command(draw), draw.choice([0, COMMAND, COMMAND, COMMAND | MORE, 0xFF])))


def changes_the_handshake(wire: Wire, keys: Keys | None, draw: Random) -> None:
    """A byte of one of the handshake's messages is another, or missing."""
    whole, at = wire.raw, draw.randrange(2, 4)
    said = 0

    def raw(data: bytes) -> None:
        nonlocal said
        said += 1
        if said == at:
            place = draw.randrange(len(data))
            data = data[:place] + draw.choice([b"", draw.randbytes(1)]) + data[place + 1 :]
        whole(data)

    wire.raw = raw  # type: ignore[method-assign]
    handshake(wire, keys, some_properties(draw))


def says_other_properties(wire: Wire, keys: Keys | None, draw: Random) -> None:
    handshake(wire, keys, some_properties(draw))
    for _ in range(draw.randrange(3)):
        wire.say(some_bytes(draw))


def says_commands(wire: Wire, keys: Keys | None, draw: Random) -> None:
    """Heartbeats, subscriptions and others, well-formed and not, among messages."""
    handshake(wire, keys, some_properties(draw))
    for _ in range(draw.randrange(1, 30)):
        flags = draw.choice([COMMAND, COMMAND, COMMAND | MORE, 0, MORE])
        wire.say(a_command(draw), flags)


def pings(wire: Wire, keys: Keys | None, draw: Random) -> None:
    """Heartbeats of every length; no answer is read."""
    handshake(wire, keys, properties({b"Socket-Type": b"DEALER", b"Identity": b""}))
    for size in range(40):
        wire.say(command(b"PING", draw.randbytes(size)), COMMAND)
        wire.say(command(b"PONG", draw.randbytes(size)), COMMAND)


def sends_odd_frames(wire: Wire, keys: Keys | None, draw: Random) -> None:
    """Lengths that lie, flags that do not exist, parts without an end."""
    handshake(wire, keys, some_properties(draw))
    for _ in range(draw.randrange(1, 6)):
        match draw.randrange(3):
            case 0:
                wire.say(some_bytes(draw), MORE)
            case 1:
                wire.raw(bytes([draw.randrange(256)]) + some_bytes(draw))
            case _:
                wire.raw(struct.pack(">BQ", draw.choice([2, 3, 6]), draw.choice(LENGTHS)))
                wire.raw(some_bytes(draw))


WAYS: list[Callable[[Wire, Keys | None, Random], None]] = [
    babbles,
    greets_otherwise,
    old_version,
    breaks_the_handshake,
    changes_the_handshake,
    says_other_properties,
    says_commands,
    pings,
    sends_odd_frames,
]


def misbehave(wire: Wire, keys: Keys | None, draw: Random) -> None:
    """One connection from its first byte to its end; it may stay open, half or whole."""
    with contextlib.suppress(OSError, CryptoError, ValueError, IndexError, struct.error):
        draw.choice(WAYS)(wire, keys, draw)
        match draw.randrange(4):
            case 0:
                wire.socket.shutdown(socket.SHUT_WR)
            case 1:
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                wire.socket.close()
            case 2:
                wire.socket.close()
