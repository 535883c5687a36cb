"""The transport over ZeroMQ (TCP or a Unix socket): ROUTER listens, DEALER connects.

A ZeroMQ message with one part is a frame. A message with two parts, of which the first is empty, is
a control message of this transport: eight bytes say how many frames the reader has taken so far, or
one byte says that the connection is over and why. Any other message ends its connection, and no
other one.

This package is built around the following facts about libzmq 4.3.5; a test verifies each of them:

- Heartbeats are read after the frames. A peer whose receive queue is full answers no heartbeat and
  loses its connection, although it is alive. So no side sends more than `WINDOW` frames that the
  other side's caller has not taken, and the queues of libzmq never fill. Control messages are rare.
- RECONNECT_IVL=-1 discards frames that arrived before the end. So the interval is a day, and the
  socket is closed long before, as soon as its frames were read.
- ROUTER does not report whose connection ended. Its monitor reports the file descriptor, which
  messages carry too; a failing send (EHOSTUNREACH) confirms it.
- A monitor whose reader is gone or full blocks the I/O thread. So the reader has no limit and is
  closed last.
- Every TCP connection is accepted, whoever makes it; see `limiter`.
- A peer may choose the routing id of another one, so only ids that ROUTER made are accepted. An id
  that resembles those may end the process; see `routes`.
"""

from __future__ import annotations

import sys

from heterofed.transport.base import MAX_CHANNELS, MAX_PENDING_BYTES
from heterofed.transport.zeromq.connector import Connector
from heterofed.transport.zeromq.heartbeat import Heartbeat
from heterofed.transport.zeromq.listener import Listener
from heterofed.transport.zeromq.zap import ClientKeys, ServerKeys

__all__ = ["ClientKeys", "Connector", "Heartbeat", "Listener", "ServerKeys", "connect", "listen"]


def listen(
    address: str,
    *,
    keys: ServerKeys | None = None,
    max_channels: int = MAX_CHANNELS,
    max_pending: int = MAX_PENDING_BYTES,
    first_bytes: int = sys.maxsize,
    _heartbeat: Heartbeat | None = None,
) -> Listener:
    """Listen at `tcp://interface:port` (port `*` for any) or `ipc://path`.

    With keys, only the listed parties can connect and each channel's `party` is proven; no party
    may hold more than `PARTY_SHARE` of the `max_channels`. Without keys, everybody can connect who
    can reach the address; the caller decides whether that is acceptable. A TCP connection must send
    something within 15 s, and no more than `first_bytes` (on Linux) until that was read.

    Raises:
        ConfigError: the address cannot be used.
    """
    heartbeat = _heartbeat or Heartbeat()
    return Listener(address, keys, max_channels, max_pending, first_bytes, heartbeat)


def connect(
    address: str,
    *,
    keys: ClientKeys | None = None,
    max_pending: int = MAX_PENDING_BYTES,
    _heartbeat: Heartbeat | None = None,
) -> Connector:
    """Connect once. `poll` reports whether it succeeded; frames may be sent before.

    Raises:
        ConfigError: the address is malformed.
    """
    return Connector(address, keys, max_pending, _heartbeat or Heartbeat())
