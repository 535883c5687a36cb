"""Routing ids of a ROUTER's peers: only those that ROUTER made itself.

ROUTER gives each peer that claims no id the next of a counter of 32 bits, behind a zero byte. A
peer may claim such an id for itself, and where the counter comes to one that is taken, libzmq ends
the whole process (an assertion in `routing_socket_base_t::add_out_pipe`). The counter begins at
libc's `rand()`, which libzmq never seeds. So it is seeded here, and nobody can tell which id comes
next; and whoever claims one loses its connection as soon as it says something.
"""

from __future__ import annotations

import ctypes
import secrets
import sys

import zmq

_SEED_BITS = 32
_PROBE = "inproc://heterofed.first"
_LAG = 1 << 16  # connections that the counting of them may be behind


def seed_libc() -> None:
    """Seed libc's `rand()` from the operating system, for the next ROUTER of this process."""
    libc = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    libc.srand(ctypes.c_uint(secrets.randbits(_SEED_BITS)))


def first_route(context: zmq.Context[zmq.Socket[bytes]], router: zmq.Socket[bytes]) -> int:
    """Learn where a ROUTER's counter begins, by a connection of our own.

    Args:
        context: the context of the ROUTER.
        router: a socket that nobody else can have connected to yet.

    Returns:
        The number in the first id that it made.
    """
    router.bind(_PROBE)
    with context.socket(zmq.DEALER) as own:
        own.setsockopt(zmq.LINGER, 0)
        own.connect(_PROBE)
        own.send(b"")
        route, _ = router.recv_multipart()
    router.unbind(_PROBE)
    return int.from_bytes(route[1:], "big")


def is_automatic(route: bytes) -> bool:
    """Whether a routing id has the form of those that ROUTER makes."""
    return len(route) == 5 and route[0] == 0


def was_made(route: bytes, first: int, connections: int) -> bool:
    """Whether a ROUTER can have made this id, whose counter began at `first`, for one of so many
    connections.
    """
    made = (int.from_bytes(route[1:], "big") - first) % (1 << 32)
    return is_automatic(route) and made <= connections + _LAG
