"""Who answers at an address, where a handshake has failed: libzmq does not tell that apart."""

from __future__ import annotations

import contextlib
import socket
import time
from enum import Enum

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01"
"""As far as the version. Behind that, a listener would hang up where the mechanism is another."""
_WHOLE_BYTES = 64
_MECHANISM = slice(12, 32)


class Answer(Enum):
    """What the other side said to a greeting."""

    CURVE = "a listener with keys"
    NULL = "a listener without keys"
    OTHER = "something that does not speak ZeroMQ as a Host does"
    NOTHING = "something that accepts connections and says nothing of its own"
    NOBODY = "nobody"


def who_answers(address: str, timeout: float = 2.0) -> Answer:
    """Greet whoever listens at `tcp://HOST:PORT`, and look at the answer; nothing else is said.

    Args:
        address: where.
        timeout: seconds to connect, and again for the answer as a whole.
    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        link = socket.create_connection((host.strip("[]"), int(port)), timeout)
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
    """What comes after a greeting, as far as another greeting is long."""
    said, ends = b"", time.monotonic() + timeout
    with contextlib.suppress(OSError):  # it waits for more, says less, or hangs up
        link.sendall(_GREETING)
        while len(said) < _WHOLE_BYTES and (left := ends - time.monotonic()) > 0:
            link.settimeout(left)
            if not (more := link.recv(_WHOLE_BYTES - len(said))):
                break
            said += more
    return said
