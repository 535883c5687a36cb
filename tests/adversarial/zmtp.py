"""ZMTP 3.1 by hand, over a plain socket: a peer that may say to libzmq whatever it likes.

Both ends of the NULL and the CURVE mechanism, as ZeroMQ RFC 37 and 26 describe them. Every field
that an honest peer sends is an argument here.
"""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from nacl.public import Box, PrivateKey, PublicKey
from zmq.utils import z85

MORE, LONG, COMMAND = 1, 2, 4


def greeting(
    mechanism: bytes = b"CURVE", *, major: int = 3, minor: int = 1, server: bool = False
) -> bytes:
    """The 64 bytes with which a connection begins."""
    signature = b"\xff" + bytes(8) + b"\x7f"
    named = mechanism[:20].ljust(20, b"\0")
    return signature + bytes([major, minor]) + named + bytes([server]) + bytes(31)


def framed(body: bytes, flags: int = 0) -> bytes:
    """A frame: flags, length and body."""
    if len(body) > 255 or flags & LONG:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return struct.pack(">BB", flags, len(body)) + body


def command(name: bytes, body: bytes = b"") -> bytes:
    """What stands in a command's frame."""
    return bytes([len(name)]) + name + body


def properties(fields: Mapping[bytes, bytes]) -> bytes:
    """Metadata: name and value of each property."""
    return b"".join(
        bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
        for name, value in fields.items()
    )


def of_dealer(routing_id: bytes = b"") -> dict[bytes, bytes]:
    """The properties of a DEALER."""
    return {b"Socket-Type": b"DEALER", b"Identity": routing_id}


@dataclass
class Keys:
    """Long-lived keys of one end and of the other, in Z85; `own` is the secret one."""

    own: str
    peer: str = ""

    def pair(self) -> tuple[PrivateKey, PublicKey]:
        return PrivateKey(z85.decode(self.own)), PublicKey(z85.decode(self.peer))


@dataclass
class Wire:
    """One connection; after a handshake with keys what is said is encrypted."""

    socket: socket.socket
    is_server: bool = False
    box: Box | None = None
    _came: bytes = b""
    _sent: int = field(default=2)

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def say(self, body: bytes, flags: int = 0) -> None:
        """Send a message or, by its flag, a command."""
        if self.box is None:
            self.raw(framed(body, flags))
            return
        inner = bytes([(flags & MORE) | (2 if flags & COMMAND else 0)]) + body
        self._sent += 1
        nonce = struct.pack(">Q", self._sent)
        prefix = b"CurveZMQMESSAGES" if self.is_server else b"CurveZMQMESSAGEC"
        self.raw(framed(command(b"MESSAGE", nonce + seal(self.box, inner, prefix + nonce))))

    def take(self, size: int) -> bytes:
        """So many bytes of the other side.

        Raises:
            ConnectionError: it has closed the connection.
        """
        while len(self._came) < size:
            more = self.socket.recv(1 << 16)
            if not more:
                raise ConnectionError("closed")
            self._came += more
        taken, self._came = self._came[:size], self._came[size:]
        return taken

    def hear(self) -> bytes:
        """The body of the next frame."""
        flags = self.take(1)[0]
        size = struct.unpack(">Q", self.take(8))[0] if flags & LONG else self.take(1)[0]
        return self.take(size)

    def greet(self, mechanism: bytes) -> None:
        self.raw(greeting(mechanism, server=self.is_server))
        self.take(64)


def seal(box: Box, text: bytes, nonce: bytes) -> bytes:
    """The text encrypted, without its nonce."""
    return bytes(box.encrypt(text, nonce).ciphertext)


def null_handshake(wire: Wire, metadata: bytes) -> None:
    """Of either end."""
    wire.greet(b"NULL")
    wire.raw(framed(command(b"READY", metadata), COMMAND))
    wire.hear()


def curve_client(wire: Wire, keys: Keys, metadata: bytes) -> None:
    """The handshake of the side that connects."""
    wire.greet(b"CURVE")
    long, server = keys.pair()
    short = PrivateKey.generate()
    one = struct.pack(">Q", 1)
    hello = seal(Box(short, server), bytes(64), b"CurveZMQHELLO---" + one)
    said = b"\x01\x00" + bytes(72) + bytes(short.public_key) + one + hello
    wire.raw(framed(command(b"HELLO", said), COMMAND))
    welcome = wire.hear()
    nonce, sealed = welcome[8:24], welcome[24:]
    opened = Box(short, server).decrypt(sealed, b"WELCOME-" + nonce)
    server_short, cookie = PublicKey(opened[:32]), opened[32:]
    mark = secrets.token_bytes(16)
    vouch = seal(
        Box(long, server_short), bytes(short.public_key) + bytes(server), b"VOUCH---" + mark
    )
    wire.box = Box(short, server_short)
    two = struct.pack(">Q", 2)
    inner = bytes(long.public_key) + mark + vouch + metadata
    sealed = seal(wire.box, inner, b"CurveZMQINITIATE" + two)
    wire.raw(framed(command(b"INITIATE", cookie + two + sealed), COMMAND))
    wire.hear()


def curve_server(wire: Wire, keys: Keys, metadata: bytes) -> None:
    """The handshake of the side that listens."""
    wire.greet(b"CURVE")
    long = PrivateKey(z85.decode(keys.own))
    hello = wire.hear()
    client_short = PublicKey(hello[80:112])
    short = PrivateKey.generate()
    mark = secrets.token_bytes(16)
    welcome = seal(Box(long, client_short), bytes(short.public_key) + bytes(96), b"WELCOME-" + mark)
    wire.raw(framed(command(b"WELCOME", mark + welcome), COMMAND))
    wire.hear()
    wire.box = Box(short, client_short)
    one = struct.pack(">Q", 1)
    ready = seal(wire.box, metadata, b"CurveZMQREADY---" + one)
    wire.raw(framed(command(b"READY", one + ready), COMMAND))
    wire._sent = 1


def handshake(wire: Wire, keys: Keys | None, metadata: bytes) -> None:
    """Whichever handshake it takes."""
    if keys is None:
        null_handshake(wire, metadata)
    elif wire.is_server:
        curve_server(wire, keys, metadata)
    else:
        curve_client(wire, keys, metadata)
