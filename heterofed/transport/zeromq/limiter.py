"""Limits the connections of a listener, which libzmq does not: a thread follows its monitor.

- libzmq accepts every TCP connection, which costs a file descriptor and up to one frame of memory
  before its key is known. So a connection that sends nothing for long is closed; if there are too
  many of them, the oldest ones are closed.
- libzmq reads a message of endlessly many parts until it ends. So a connection that has received
  much more bytes than came out of libzmq is closed too. Only Linux reports this number.

To close a connection, this module shuts down its socket below libzmq, which notices and cleans up.

File descriptors belong to libzmq and may refer to another file by the time of closing. So this
module acts on a duplicate, and only if that is a connection to the listener's own port. The worst
mistake is to close a new connection whose peer then connects again.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import zmq

from heterofed.transport.rate_limit import FIRST_MESSAGE_SECONDS

MAX_SILENT = 128
"""The most connections that have sent nothing yet, but at most a quarter of all descriptors."""

LEAVE_SECONDS = 5.0
"""The seconds that a peer has to close a connection that this side has finished."""

MAX_BEHIND = 256 << 20
"""The most bytes of a connection that libzmq may hold: somewhat more than a full queue."""

FORWARD = "inproc://heterofed.monitor.told"

EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED
"""The monitor's events that the limiter needs; the last one wakes it up to stop."""

_AT_ONCE = 256  # events of the monitor that are processed in one turn
_LOOK_SECONDS = 0.25
_EVENT = struct.Struct("=Hi")  # the first part of a monitor's message: event and file descriptor
_RECEIVED_AT = 128  # tcpi_bytes_received in Linux's struct tcp_info


class Read(Protocol):
    """Counts the bytes of a connection that came out of libzmq."""

    came: int


@dataclass(slots=True)
class _Entry:
    """One connection.

    Attributes:
        address: the peer's IP address, or empty if the connection was closed already.
        until: the time until which the connection may stay, or None for no limit.
        reads: the counter of its bytes, once the connection has sent something.
    """

    address: str
    until: float | None
    reads: Read | None = None


class ConnectionLimiter:
    """Follows a listener's monitor until `stop` and closes connections that exceed the limits.

    It passes the monitor's messages about ended connections on to the socket that connects to
    `FORWARD`.

    Args:
        context: the listener's ZeroMQ context.
        monitor: the address of the listener's monitor, which must report `EVENTS`.
        first_bytes: the most bytes that a connection may receive before any of it was read.

    Attributes:
        port: the listener's port, once it is known; nothing is closed before.
        accepted: the number of connections that were accepted so far.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], monitor: str, first_bytes: int
    ) -> None:
        self.port: int | None = None
        self.accepted = 0
        self._first_bytes = first_bytes
        self._stopping = False
        self._most = min(MAX_SILENT, _descriptors() // 4)
        self._lock = threading.Lock()
        self._entries: dict[int, _Entry] = {}  # by descriptor, oldest first
        self._monitor = context.socket(zmq.PAIR)
        self._told = context.socket(zmq.PAIR)
        for each in (self._monitor, self._told):
            each.setsockopt(zmq.LINGER, 0)
            each.setsockopt(zmq.RCVHWM, 0)
            each.setsockopt(zmq.SNDHWM, 0)
        self._monitor.connect(monitor)
        self._told.bind(FORWARD)
        self._thread = threading.Thread(target=self._run, name="heterofed-limiter", daemon=True)
        self._thread.start()

    def heard(self, fd: int, reads: Read) -> None:
        """Note that a connection has sent something, and may stay."""
        with self._lock:
            if entry := self._entries.get(fd):
                entry.until, entry.reads = None, reads

    def left(self, fd: int) -> None:
        """Note that this side has finished a connection, whose descriptor may be reused already."""
        with self._lock:
            if (entry := self._entries.get(fd)) and entry.until is None:
                entry.until = time.monotonic() + LEAVE_SECONDS

    def close_now(self, fd: int) -> None:
        """Close a connection at once."""
        with self._lock:
            if fd in self._entries:
                self._close(fd)

    def stop(self) -> None:
        """End the thread; the monitor must be stopped before."""
        self._stopping = True
        self._thread.join(10)

    def _run(self) -> None:
        looked = 0.0
        try:
            while self._follow():
                with self._lock:
                    now = time.monotonic()
                    for fd in set(self._surplus(now)):
                        self._close(fd)
                    if now - looked >= _LOOK_SECONDS:
                        looked = now
                        for fd in list(self._entries):
                            self._weigh(fd)
        finally:
            self._monitor.close()
            self._told.close()

    def _follow(self) -> bool:
        """Process the monitor's messages; return False once it is stopped."""
        self._monitor.poll(int(_LOOK_SECONDS * 1000))
        for _ in range(_AT_ONCE):
            try:
                parts = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            event, fd = _EVENT.unpack(parts[0])
            if event == zmq.EVENT_DISCONNECTED:
                self._told.send_multipart(parts, zmq.DONTWAIT)
            with self._lock:
                self._entries.pop(fd, None)
                if event == zmq.EVENT_ACCEPTED:
                    self.accepted += 1
                    self._entries[fd] = _Entry(
                        _peer_of(fd), time.monotonic() + FIRST_MESSAGE_SECONDS
                    )
        return not self._stopping

    def _surplus(self, now: float) -> Iterator[int]:
        """Yield the connections to close.

        These are the ones whose time is over and, above the limit, the oldest ones of the address
        that has most of them.
        """
        silent = {fd: entry for fd, entry in self._entries.items() if entry.until is not None}
        yield from (
            fd for fd, entry in silent.items() if entry.until is not None and entry.until <= now
        )
        crowds = Counter(entry.address for entry in silent.values())
        for _ in range(len(silent) - self._most):
            address = max(crowds, key=crowds.__getitem__)
            oldest = next(fd for fd, entry in silent.items() if entry.address == address)
            crowds[address] -= 1
            del silent[oldest]
            yield oldest

    def _weigh(self, fd: int) -> None:
        """Close a connection if libzmq holds too many bytes of it."""
        reads = self._entries[fd].reads
        with contextlib.suppress(OSError), _duplicate(fd) as connection:
            most = self._first_bytes if reads is None else reads.came + MAX_BEHIND
            if _bytes_received(connection) > most:
                self._close(fd)

    def _close(self, fd: int) -> None:
        if self.port is None:
            return
        del self._entries[fd]
        with contextlib.suppress(OSError), _duplicate(fd) as connection:
            connection.getpeername()  # raises if it is not connected
            if connection.getsockname()[1] == self.port:
                connection.shutdown(socket.SHUT_RDWR)


def _duplicate(fd: int) -> socket.socket:
    return socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM)


def _peer_of(fd: int) -> str:
    """Return the IP address of the other end, or an empty string if it has gone already."""
    try:
        with _duplicate(fd) as connection:
            return str(connection.getpeername()[0])
    except (OSError, IndexError):
        return ""


def _bytes_received(connection: socket.socket) -> int:
    """Return the bytes that a TCP connection has received, or 0 if the system does not tell."""
    if sys.platform != "linux":
        return 0
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_AT + 8)
    return int.from_bytes(info[_RECEIVED_AT:], sys.byteorder)


def _descriptors() -> int:
    """Return the number of files that this process may have open."""
    if sys.platform == "win32":
        return 8192
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
