"""Finds out what answers at an address after a failed handshake, which libzmq does not report."""

from __future__ import annotations

import contextlib
import socket
import time
from enum import Enum

from heterofed.transport.names import host_and_port

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01"
"""A greeting up to its version. A listener would hang up at a later field of another mechanism."""
_WHOLE_BYTES = 64
_MECHANISM = slice(12, 32)


class Answer(Enum):
    """The answer of the other side to a greeting."""

    CURVE = "a listener with keys"
    NULL = "a listener without keys"
    OTHER = "something that does not speak ZeroMQ as a Host does"
    NOTHING = "something that accepts connections and says nothing of its own"
    NOBODY = "nobody"


def who_answers(address: str, timeout: float = 2.0) -> Answer:
    """Send a ZeroMQ greeting to an address and classify the answer. Nothing else is sent.

    Args:
        address: an address of the form `tcp://HOST:PORT`.
        timeout: the longest time in seconds to connect, and again to receive the whole answer.
    """
    host, port = host_and_port(address)
    try:
        link = socket.create_connection((host, int(port)), timeout)
    except OSError:
        return Answer.NOBODY
    with link:
        said = _said(link, timeout)
    if not said:
        return Answer.NOTHING
    mechanism = said[_MECHANISM].rstrip(b"\0").decode("ascii", "replace")
    is_zmtp = len(said) == _WHOLE_BYTES and said[0] == 0xFF and said[9] & 1
    return Answer[mechanism] if is_zmtp and mechanism in ("CURVE", "NULL") else Answer.OTHER


def _said(link: socket.socket, timeout: float) -> bytes:
    """Return the bytes that answer a greeting, up to the length of a greeting."""
    said, ends = b"", time.monotonic() + timeout
    with contextlib.suppress(OSError):  # the other side waits for more, sends less, or hangs up
        link.sendall(_GREETING)
        while len(said) < _WHOLE_BYTES and (left := ends - time.monotonic()) > 0:
            link.settimeout(left)
            if not (more := link.recv(_WHOLE_BYTES - len(said))):
                break
            said += more
    return said
