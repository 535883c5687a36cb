"""The base of both sides: reading, the window of frames, and the end of connections."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from enum import Enum, auto

import zmq
from zmq.utils.monitor import recv_monitor_message

from heterofed.errors import ChannelClosedError
from heterofed.transport.base import (
    MAX_FRAME_BYTES,
    Buffer,
    Channel,
    Endpoint,
    Event,
    Lost,
    LostReason,
    Opened,
    Received,
)
from heterofed.transport.flow_control import ACK_EVERY, MAX_EVENTS, MAX_HELD_BYTES, WINDOW, Outbox
from heterofed.transport.interrupts import UNINTERRUPTED
from heterofed.transport.zeromq.heartbeat import Heartbeat
from heterofed.transport.zeromq.routes import seed_libc
from heterofed.transport.zeromq.zap import DOMAIN

MONITOR = "inproc://heterofed.monitor"
"""The address at which a socket reports events of its connections."""

CLOSED, FULL = b"c", b"f"
"""The last control message of a connection, which says why it is over."""

_ENDINGS = {CLOSED: LostReason.CLOSED, FULL: LostReason.FULL}
# Messages in one queue of libzmq: twice a window and its control messages, because libzmq notices
# only in steps of half a queue that messages were read.
_QUEUE = 2 * (WINDOW + 8)
_PART_BYTES = 42  # CURVE and ZMTP add so many bytes to each part of a message
_COPY_BELOW = 64 << 10  # smaller frames are copied, because they share large buffers inside libzmq
_EVENTS, _READABLE = int(zmq.EVENTS), int(zmq.POLLIN)  # enums take longer than the calls
_READS = 1000  # message parts that are read in one turn
_LOOK_SECONDS = 0.02  # how long news of the monitor may wait while frames come


class State(Enum):
    OPEN = auto()
    LEAVING = auto()  # lost, but some of its frames may not be read yet
    OVER = auto()  # its loss was reported, or the caller closed it


class Connection(Channel):
    """One connection. It keeps the counters, and the endpoint does the work."""

    def __init__(
        self, endpoint: ZmqEndpoint, party: str | None, route: bytes | None, fd: int
    ) -> None:
        self.party = party
        self.route = route
        self.fd = fd
        self.state = State.OPEN
        self.reason = LostReason.DISCONNECTED
        self.announced = False
        self.forgotten = False
        self.outbox = Outbox(endpoint.max_pending)
        self.sent = 0  # frames given to libzmq
        self.taken = 0  # the frames of these that the other side's caller took
        self.read = 0  # frames that this side's caller took
        self.came = 0  # bytes that libzmq returned, counted as on the wire
        self.told = 0  # the frames of these that the other side was told of
        self.quiet_since = 0
        self.looks: deque[float] = deque()
        self._endpoint = endpoint

    def send(self, frames: Iterable[Buffer]) -> None:
        if self.state is not State.OPEN:
            raise ChannelClosedError(f"the connection to {self.party or 'a peer'} is gone")
        self.outbox.put(frames)
        self._endpoint.pump(self)

    @property
    def pending(self) -> int:
        return self.outbox.pending

    def close(self) -> None:
        self._endpoint.forget(self)


class ZmqEndpoint(Endpoint):
    """The base of listener and connector: reading, the window, and the end of connections."""

    max_pending: int

    def __init__(
        self,
        kind: int,
        address: str,
        max_pending: int,
        handshake_seconds: float,
        heartbeat: Heartbeat,
    ) -> None:
        self.max_pending = max_pending
        self._events: deque[Event] = deque()
        self._held = 0  # the bytes of the frames in _events
        self._read_total = 0
        self._skipping = False  # inside a message with too many parts
        self._deaf = False  # closing: frames are dropped
        self._readable = False  # the socket, as the last wait has found
        self._looks_at = 0.0  # when the monitor is looked at next
        self._open = True
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        seed_libc()
        self._socket = self._context.socket(kind)
        options: dict[int, int | bytes] = {
            zmq.LINGER: 0,
            zmq.SNDHWM: _QUEUE,
            zmq.RCVHWM: _QUEUE,
            # CURVE adds some bytes to each frame; `_process` checks the exact size.
            zmq.MAXMSGSIZE: MAX_FRAME_BYTES + 64,
            zmq.HANDSHAKE_IVL: int(1000 * handshake_seconds),
            # With a domain, libzmq refuses ZMTP before 3.0, which checks and proves less.
            zmq.ZAP_DOMAIN: DOMAIN,
            zmq.IPV6: int("[" in address),
        }
        if not address.startswith("ipc:"):  # the kernel reports the end of a Unix socket
            options[zmq.HEARTBEAT_IVL] = int(heartbeat.interval * 1000)
            options[zmq.HEARTBEAT_TIMEOUT] = int(heartbeat.timeout * 1000)
            options[zmq.HEARTBEAT_TTL] = int(heartbeat.timeout * 1000)
        for option, value in options.items():
            self._socket.setsockopt(option, value)

    def _watch(self, events: int, through: str = MONITOR) -> None:
        """Read the monitor's events, or those that another thread passes on at `through`."""
        if through == MONITOR:
            self._socket.monitor(MONITOR, events)
        self._monitor = self._context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.connect(through)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    # The contract

    def poll(self, timeout: float) -> list[Event]:
        deadline = time.monotonic() + timeout
        if timeout > 0 and self._has_nothing_to_do():  # as nearly always
            self._wait(timeout)
        while True:
            self._work(MAX_EVENTS, MAX_HELD_BYTES)
            events = self._deliver()
            left = deadline - time.monotonic()
            if events or left <= 0:
                return events
            self._wait(left)

    def flush(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        # Acknowledgements arrive after the peers' frames, so all frames of all windows must fit.
        events = len(self._events) + (len(self._peers()) + 1) * (WINDOW + 2)
        while True:
            self._work(events, events * MAX_FRAME_BYTES)
            if not any(peer.outbox for peer in self._peers()):
                return True
            left = deadline - time.monotonic()
            if left <= 0 or len(self._events) >= events:
                return False
            self._wait(left)

    def close(self, linger: float = 0.0) -> None:
        if not self._open:
            return
        deadline = time.monotonic() + linger
        self._deaf = True
        self._events.clear()
        self._held = 0
        try:
            if linger > 0 and self.flush(linger):
                # The peer answers once it has read everything. Until then this side reads on:
                # closing a socket with unread bytes would discard frames that are under way.
                for peer in self._peers():
                    if peer.state is State.OPEN:
                        self._post(peer, b"", CLOSED)
                while any(peer.state is not State.OVER for peer in self._peers()):
                    if (left := deadline - time.monotonic()) <= 0:
                        break
                    self._wait(left)
                    self._work(MAX_EVENTS, MAX_HELD_BYTES)
        finally:
            for peer in self._peers():
                peer.state = State.OVER
                peer.outbox.clear()
            self._shut()

    # One round of work

    def _work(self, events: int, held: int) -> None:
        if not self._open:
            return
        self._look_around()
        self._receive(events, held)
        for peer in self._peers():
            if peer.state is State.OPEN:
                self.pump(peer)

    def _has_nothing_to_do(self) -> bool:
        """Return whether there is no work before something comes."""
        for peer in self._peers():
            if peer.outbox or peer.state is State.LEAVING:
                return False
        return self._open and not self._events

    def _wait(self, seconds: float) -> None:
        if not self._open:
            time.sleep(seconds)
            return
        due = [peer.looks[0] for peer in self._peers() if peer.looks]
        if due:
            seconds = min(seconds, max(0.0, min(due) - time.monotonic()))
        # The time is rounded up, so that the last millisecond is no busy loop.
        for ready, _ in self._poller.poll(int(seconds * 1000) + 1):
            if ready is self._socket:
                self._readable = True
            else:
                self._looks_at = 0.0

    def _look_around(self) -> None:
        now = time.monotonic()
        if now >= self._looks_at:
            self._looks_at = now + _LOOK_SECONDS
            self._hear_monitor()
        for peer in self._peers():
            if peer.looks and peer.looks[0] <= now:
                peer.looks.popleft()
                self._look_at(peer)

    def _hear_monitor(self) -> None:
        for _ in range(MAX_EVENTS):
            if not _has_mail(self._monitor):
                break
            try:
                message = recv_monitor_message(self._monitor, zmq.DONTWAIT)
            except zmq.Again:
                break
            self._noticed(message["event"], message["value"])

    def _receive(self, events: int, held: int) -> None:
        reads = 0
        while len(self._events) < events and self._held < held and reads < _READS:
            if not self._readable and not _has_mail(self._socket):
                self._settle(drained=True)
                return
            self._readable = False
            parts: list[zmq.Frame] = []
            more = True
            while more:
                reads += 1
                try:
                    part = self._socket.recv(zmq.DONTWAIT, copy=False)
                except zmq.Again:
                    self._settle(drained=True)
                    return
                more = part.more
                if self._skipping:
                    self._skipping = more
                    break
                parts.append(part)
                if len(parts) > 3:
                    self._skipping = more
                    break
            if parts:
                self._read_total += 1
                self._arrived(parts)
                if not self._open:
                    return
        self._settle(drained=False)

    def _process(self, peer: Connection, parts: list[zmq.Frame]) -> None:
        """Process one message of a known peer, without its routing id."""
        peer.quiet_since = self._read_total
        for part in parts:
            peer.came += len(part) + _PART_BYTES
        if peer.state is State.OVER:
            return
        if len(parts) == 1 and 0 < len(parts[0]) <= MAX_FRAME_BYTES:
            self._announce(peer)
            if not self._deaf:
                part = parts[0]
                frame = part.bytes if len(part) < _COPY_BELOW else part.buffer
                self._held += len(part)
                self._events.append(Received(peer, frame))
            return
        if len(parts) == 2 and len(parts[0]) == 0:
            if len(parts[1]) == 8:
                taken = int.from_bytes(parts[1].bytes, "big")
                if peer.taken <= taken <= peer.sent:
                    peer.taken = taken
                    return
            elif reason := _ENDINGS.get(parts[1].bytes[:2]):
                self._post(peer, b"", CLOSED)
                self._lose(peer, reason)
                return
        self._post(peer, b"", CLOSED)
        self._lose(peer, LostReason.MALFORMED)

    def _deliver(self) -> list[Event]:
        events: list[Event] = []
        while self._events and len(events) < MAX_EVENTS:
            event = self._events.popleft()
            peer = event.channel
            if isinstance(event, Received):
                self._held -= len(event.frame)
            if not isinstance(peer, Connection) or peer.forgotten:
                continue
            events.append(event)
            if isinstance(event, Received):
                peer.read += 1
                if peer.read - peer.told >= ACK_EVERY and peer.state is State.OPEN:
                    self._tell(peer)
        return events

    # Sending

    def pump(self, peer: Connection) -> None:
        """Give queued frames of this peer to libzmq, as far as the window allows."""
        while peer.outbox and peer.sent - peer.taken < WINDOW:
            with UNINTERRUPTED:
                if not self._post(peer, peer.outbox.head()):
                    break
                peer.outbox.pop()
                peer.sent += 1
        if peer.read - peer.told >= ACK_EVERY and peer.state is State.OPEN:
            self._tell(peer)

    def _tell(self, peer: Connection) -> None:
        if self._post(peer, b"", peer.read.to_bytes(8, "big")):
            peer.told = peer.read

    def _post(self, peer: Connection, *parts: Buffer) -> bool:
        """Pass one message to libzmq, which copies it; return whether it was accepted."""
        if not self._open:
            return False
        message = parts if peer.route is None else (peer.route, *parts)
        try:
            with UNINTERRUPTED:
                for part in message[:-1]:
                    self._socket.send(part, zmq.DONTWAIT | zmq.SNDMORE)
                self._socket.send(message[-1], zmq.DONTWAIT)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._leave(peer, LostReason.DISCONNECTED)
            return False
        return True

    # The end of a connection

    def forget(self, peer: Connection) -> None:
        """Handle that the caller closed the channel."""
        if not peer.forgotten:
            peer.forgotten = True
            peer.outbox.clear()
            if peer.state is not State.OVER:
                self._post(peer, b"", CLOSED)
                peer.state = State.OVER
                self._over(peer)

    def _leave(self, peer: Connection, reason: LostReason) -> None:
        """Note that the connection is lost; frames that arrived before are still read."""
        peer.outbox.clear()
        peer.looks.clear()
        if peer.state is State.OPEN:
            peer.state = State.LEAVING
            peer.reason = reason
            peer.quiet_since = self._read_total

    def _lose(self, peer: Connection, reason: LostReason) -> None:
        """Report the loss, after all frames that were read."""
        peer.outbox.clear()
        if peer.state is not State.OVER:
            peer.state = State.OVER
            if not peer.forgotten:
                self._events.append(Lost(peer, reason))
        self._over(peer)

    def _announce(self, peer: Connection) -> None:
        if not peer.announced:
            peer.announced = True
            self._events.append(Opened(peer))

    def _shut(self) -> None:
        # The order matters: stop the events, close the socket, then close the monitor's reader.
        self._open = False
        self._socket.monitor(None, 0)
        self._socket.close(0)
        self._unwatch()
        self._monitor.close(0)
        self._context.term()

    def _unwatch(self) -> None:
        """Clean up after the monitor was stopped."""

    @abstractmethod
    def _peers(self) -> list[Connection]: ...

    @abstractmethod
    def _noticed(self, event: int, value: int) -> None:
        """Process one event of the monitor."""

    @abstractmethod
    def _look_at(self, peer: Connection) -> None:
        """Check, at a time that was scheduled, whether this peer is still connected."""

    @abstractmethod
    def _arrived(self, parts: list[zmq.Frame]) -> None:
        """Process one message."""

    @abstractmethod
    def _settle(self, *, drained: bool) -> None:
        """Report lost connections after reading.

        Args:
            drained: whether reading stopped because nothing was left to read.
        """

    @abstractmethod
    def _over(self, peer: Connection) -> None:
        """Clean up after a connection was reported as lost or closed by the caller."""


def _has_mail(of: zmq.Socket[bytes]) -> bool:
    """Return whether there is something to read; to ask is faster than to try in vain."""
    return bool(int(of.getsockopt(_EVENTS)) & _READABLE)
