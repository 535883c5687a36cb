"""Checks the routing ids of a ROUTER's peers: only ids that ROUTER made itself are accepted.

ROUTER gives each peer that claims no id a zero byte followed by the next value of a 32-bit counter.
A peer may claim such an id for itself, and when the counter reaches an id that is in use, libzmq
ends the whole process (an assertion in `routing_socket_base_t::add_out_pipe`). The counter starts
at libc's `rand()`, which libzmq never seeds. So this module seeds it, and no peer can predict the
next id. A peer that claims an id loses its connection as soon as it sends something.
"""

from __future__ import annotations

import ctypes
import secrets
import sys

import zmq

_SEED_BITS = 32
_PROBE = "inproc://heterofed.first"
_LAG = 1 << 16  # the count of connections may lag behind by so many


def seed_libc() -> None:
    """Seed libc's `rand()` from the operating system, for the next ROUTER of this process."""
    libc = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    libc.srand(ctypes.c_uint(secrets.randbits(_SEED_BITS)))


def first_route(context: zmq.Context[zmq.Socket[bytes]], router: zmq.Socket[bytes]) -> int:
    """Find out where a ROUTER's counter starts, by connecting to it.

    Args:
        context: the ZeroMQ context of the ROUTER.
        router: a socket to which no peer can have connected yet.

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
    """Whether a ROUTER can have made this id.

    Args:
        route: the routing id.
        first: the number at which the ROUTER's counter started.
        connections: the number of connections that the ROUTER has accepted.
    """
    made = (int.from_bytes(route[1:], "big") - first) % (1 << 32)
    return is_automatic(route) and made <= connections + _LAG
