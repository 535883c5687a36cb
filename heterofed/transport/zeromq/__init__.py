"""The transport over ZeroMQ (TCP or a Unix socket): ROUTER listens, DEALER connects.

A ZeroMQ message with one part is a frame. One with two parts, the first empty, is this transport's
own: eight bytes say how many frames the reader has taken so far, one byte says that the connection
is over and why. Anything else ends that connection and nothing more.

Facts about libzmq 4.3.5 that this module is built around (each is held by a test):

- Heartbeats are read behind the frames. A peer whose receive queue is full answers none and loses
  the connection, however alive it is. So nobody sends more than `WINDOW` frames that the other
  side's caller has not taken, and the queues of libzmq never fill. Its own messages are rare.
- RECONNECT_IVL=-1 throws away frames that came before the end. So the interval is a day, and the
  socket is closed long before, once the frames are out.
- ROUTER tells nobody whose connection ended. Its monitor gives the file descriptor, which messages
  carry too; a send then says for certain (EHOSTUNREACH).
- A monitor whose reader is gone or full stops the I/O thread: the reader has no limit, goes last.
- Every TCP connection is accepted, whoever makes it; see `doorman`.
- A routing id that a peer chose may be another's: only ids that ROUTER made are accepted. One that
  looks like those may end the process; see `routes`.
"""

from __future__ import annotations

import sys

from heterofed.transport.base import MAX_CHANNELS, MAX_PENDING_BYTES
from heterofed.transport.zeromq.connector import Connector
from heterofed.transport.zeromq.endpoint import Heartbeat
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

    With keys, only the listed parties get in and each channel's `party` is proven; no party may
    hold more than `PARTY_SHARE` of the `max_channels`. Without, everybody gets in who can reach the
    address: whether that is acceptable is for the caller to say. A TCP connection must say
    something within 15 s, and may bring `first_bytes` (on Linux) until that is read.

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
    """Connect once; what becomes of it is told by `poll`. Frames may be sent at once.

    Raises:
        ConfigError: the address is malformed.
    """
    return Connector(address, keys, max_pending, _heartbeat or Heartbeat())
