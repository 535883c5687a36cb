"""Keeps peers from filling a listener, where libzmq has no bound: a thread follows its monitor.

- Every TCP connection is accepted, and costs a file descriptor and up to one frame of memory before
  its key is known. So whoever says nothing for long goes, and of too many the oldest.
- A message of endless parts is read until it ends. So whoever has brought much more than came out
  of libzmq goes too; Linux tells how much that is, other systems do not.

To close, it shuts down the connection below libzmq, which notices and does the rest.

Descriptors are libzmq's and may be another file's by the time we act. So we act on a duplicate,
and only where that is a connection to our own port: the worst mistake is to close a connection that
came this moment, and whose peer dials again.
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

from heterofed.transport.rate_limit import VISIT_SECONDS

MAX_SILENT = 128
"""Connections that have said nothing yet; a quarter of the process's descriptors at most."""

LEAVE_SECONDS = 5.0
"""What a peer has to close a connection that this side is done with."""

MAX_BEHIND = 256 << 20
"""Bytes that libzmq may hold of a connection, as its kernel counts: a full queue, and some more."""

FORWARD = "inproc://heterofed.monitor.told"

EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED
"""What the doorman must be told; the last wakes it up to stop."""

_AT_ONCE = 256  # events of the monitor that are looked at in one go
_LOOK_SECONDS = 0.25
_EVENT = struct.Struct("=Hi")  # what a monitor tells first: which event, and of which descriptor
_RECEIVED_AT = 128  # tcpi_bytes_received in Linux's struct tcp_info


class Read(Protocol):
    """What counts how many bytes of a connection came out of libzmq."""

    came: int


@dataclass(slots=True)
class _Seat:
    """One connection.

    Attributes:
        address: where it comes from; empty where it had gone already.
        until: until when it may stay; None: as long as it likes.
        reads: what counts its bytes, once it has said something.
    """

    address: str
    until: float | None
    reads: Read | None = None


class Doorman:
    """Follows the monitor at `monitor`, which tells of `EVENTS`, until `stop`.

    The ends of connections are passed on, as the monitor tells them, to whoever connects to
    `FORWARD`.

    Args:
        context, monitor: of the listener.
        first_bytes: how much a connection may bring before anything of it was read.

    Attributes:
        port: where the listener listens, once it is known; nothing is closed before.
        accepted: how many connections came so far.
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
        self._seats: dict[int, _Seat] = {}  # by descriptor, in the order in which they came
        self._monitor = context.socket(zmq.PAIR)
        self._told = context.socket(zmq.PAIR)
        for each in (self._monitor, self._told):
            each.setsockopt(zmq.LINGER, 0)
            each.setsockopt(zmq.RCVHWM, 0)
            each.setsockopt(zmq.SNDHWM, 0)
        self._monitor.connect(monitor)
        self._told.bind(FORWARD)
        self._thread = threading.Thread(target=self._run, name="heterofed-door", daemon=True)
        self._thread.start()

    def heard(self, fd: int, reads: Read) -> None:
        """A connection has said something, and may stay."""
        with self._lock:
            if seat := self._seats.get(fd):
                seat.until, seat.reads = None, reads

    def left(self, fd: int) -> None:
        """This side is done with a connection, or it is gone, and its descriptor anybody's."""
        with self._lock:
            if (seat := self._seats.get(fd)) and seat.until is None:
                seat.until = time.monotonic() + LEAVE_SECONDS

    def turn_out(self, fd: int) -> None:
        """Close a connection at once."""
        with self._lock:
            if fd in self._seats:
                self._close(fd)

    def stop(self) -> None:
        """End, once the monitor was stopped."""
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
                        for fd in list(self._seats):
                            self._weigh(fd)
        finally:
            self._monitor.close()
            self._told.close()

    def _follow(self) -> bool:
        """Take in what the monitor tells; False once it is stopped."""
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
                self._seats.pop(fd, None)
                if event == zmq.EVENT_ACCEPTED:
                    self.accepted += 1
                    self._seats[fd] = _Seat(_peer_of(fd), time.monotonic() + VISIT_SECONDS)
        return not self._stopping

    def _surplus(self, now: float) -> Iterator[int]:
        """Whose time is over; and above the bound, the oldest from where most come."""
        silent = {fd: seat for fd, seat in self._seats.items() if seat.until is not None}
        yield from (
            fd for fd, seat in silent.items() if seat.until is not None and seat.until <= now
        )
        crowds = Counter(seat.address for seat in silent.values())
        for _ in range(len(silent) - self._most):
            address = max(crowds, key=crowds.__getitem__)
            oldest = next(fd for fd, seat in silent.items() if seat.address == address)
            crowds[address] -= 1
            del silent[oldest]
            yield oldest

    def _weigh(self, fd: int) -> None:
        """Close a connection of which libzmq holds too much."""
        reads = self._seats[fd].reads
        with contextlib.suppress(OSError), _duplicate(fd) as connection:
            most = self._first_bytes if reads is None else reads.came + MAX_BEHIND
            if _bytes_received(connection) > most:
                self._close(fd)

    def _close(self, fd: int) -> None:
        if self.port is None:
            return
        del self._seats[fd]
        with contextlib.suppress(OSError), _duplicate(fd) as connection:
            connection.getpeername()  # raises where there is none
            if connection.getsockname()[1] == self.port:
                connection.shutdown(socket.SHUT_RDWR)


def _duplicate(fd: int) -> socket.socket:
    return socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM)


def _peer_of(fd: int) -> str:
    """The address of whoever is at the other end; empty where it has gone already."""
    try:
        with _duplicate(fd) as connection:
            return str(connection.getpeername()[0])
    except (OSError, IndexError):
        return ""


def _bytes_received(connection: socket.socket) -> int:
    """What has come over a TCP connection so far; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_AT + 8)
    return int.from_bytes(info[_RECEIVED_AT:], sys.byteorder)


def _descriptors() -> int:
    """How many files this process may have open."""
    if sys.platform == "win32":
        return 8192
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
