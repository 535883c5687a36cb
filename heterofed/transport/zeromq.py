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
- A routing id that a peer chose may be another's: only ids that ROUTER made are accepted.
"""

from __future__ import annotations

import logging
import sys
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

import zmq
from zmq.utils.monitor import recv_monitor_message

from heterofed.errors import ChannelClosedError, ConfigError
from heterofed.transport import doorman
from heterofed.transport.base import (
    MAX_CHANNELS,
    MAX_FRAME_BYTES,
    MAX_PENDING_BYTES,
    Buffer,
    Channel,
    Endpoint,
    Event,
    Lost,
    LostReason,
    Opened,
    Received,
)
from heterofed.transport.flow import ACK_EVERY, MAX_EVENTS, MAX_HELD_BYTES, WINDOW, Outbox
from heterofed.transport.zap import DOMAIN, ClientKeys, ServerKeys, ZapHandler, require_curve

logger = logging.getLogger("heterofed")

HANDSHAKE_SECONDS = 5.0
"""What a newcomer's handshake may take at a listener."""

CONNECT_SECONDS = 10.0
"""What a connection may take, and again its handshake, at the side that makes it."""

PARTY_SHARE = 8
"""Connections of one proven party at a time: one that works, and others that died unnoticed."""

_NEVER = 24 * 3600 * 1000  # ms; libzmq would reconnect then, but the socket is closed before
# Messages in one queue of libzmq: a window and this transport's own ones, twice, because libzmq
# notices only in steps of half a queue that it was emptied.
_QUEUE = 2 * (WINDOW + 8)
_PART_BYTES = 42  # that CURVE and ZMTP add to each part of a message
_COPY_BELOW = 64 << 10  # smaller frames are copied out: they share larger buffers inside libzmq
_READS = 1000  # message parts looked at in one go
_PROBES = (0.0, 0.005, 0.02, 0.1, 0.5, 1.0)  # seconds between a hint and each look
_GRACE = 0.25  # seconds until the end is final where libzmq does not say so
_MONITOR = "inproc://heterofed.monitor"

_CLOSED, _FULL = b"c", b"f"
_ENDINGS = {_CLOSED: LostReason.CLOSED, _FULL: LostReason.FULL}

_HANDSHAKE_FAILURES = (
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL,
    zmq.Event.HANDSHAKE_FAILED_AUTH,
)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How a dead link is noticed; interval and timeout together must stay below 15 s.

    With a moment to come back over another connection too: see `reliable.RETURN_SECONDS`.
    """

    interval: float = 3.0
    timeout: float = 9.0


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


class _State(Enum):
    OPEN = auto()
    LEAVING = auto()  # gone, but frames of it may still have to be read
    OVER = auto()  # reported, or forgotten by us


class _Peer(Channel):
    """One connection. The endpoint does the work; this keeps the counters."""

    def __init__(
        self, endpoint: _ZmqEndpoint, party: str | None, route: bytes | None, fd: int
    ) -> None:
        self.party = party
        self.route = route
        self.fd = fd
        self.state = _State.OPEN
        self.reason = LostReason.DISCONNECTED
        self.announced = False
        self.forgotten = False
        self.outbox = Outbox(endpoint.max_pending)
        self.sent = 0  # frames given to libzmq
        self.taken = 0  # of these, frames that the other side's caller took
        self.read = 0  # frames that our caller took
        self.came = 0  # bytes that libzmq gave out, as they were on the wire
        self.told = 0  # of these, frames that the other side knows of
        self.quiet_since = 0
        self.looks: deque[float] = deque()
        self._endpoint = endpoint

    def send(self, frames: Iterable[Buffer]) -> None:
        if self.state is not _State.OPEN:
            raise ChannelClosedError(f"the connection to {self.party or 'a peer'} is gone")
        self.outbox.put(frames)
        self._endpoint.pump(self)

    @property
    def pending(self) -> int:
        return self.outbox.pending

    def close(self) -> None:
        self._endpoint.forget(self)


class _ZmqEndpoint(Endpoint):
    """What listening and connecting have in common: reading, the window, the end."""

    max_pending: int

    def __init__(self, kind: int, address: str, max_pending: int, heartbeat: Heartbeat) -> None:
        self.max_pending = max_pending
        self._events: deque[Event] = deque()
        self._held = 0  # bytes in _events
        self._read_total = 0
        self._skipping = False  # inside a message with too many parts
        self._deaf = False  # closing: frames are dropped
        self._open = True
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(kind)
        listens = kind == zmq.ROUTER
        options = {
            zmq.LINGER: 0,
            zmq.SNDHWM: _QUEUE,
            zmq.RCVHWM: _QUEUE,
            # CURVE adds some bytes to each frame; `_understand` is exact.
            zmq.MAXMSGSIZE: MAX_FRAME_BYTES + 64,
            zmq.HANDSHAKE_IVL: int(1000 * (HANDSHAKE_SECONDS if listens else CONNECT_SECONDS)),
            zmq.IPV6: int("[" in address),
        }
        if not address.startswith("ipc:"):  # the kernel itself reports the end of a Unix socket
            options[zmq.HEARTBEAT_IVL] = int(heartbeat.interval * 1000)
            options[zmq.HEARTBEAT_TIMEOUT] = int(heartbeat.timeout * 1000)
            options[zmq.HEARTBEAT_TTL] = int(heartbeat.timeout * 1000)
        for option, value in options.items():
            self._socket.setsockopt(option, value)

    def _watch(self, events: int, through: str = _MONITOR) -> None:
        """Have the monitor's events told, or those that pass `through` something else."""
        if through == _MONITOR:
            self._socket.monitor(_MONITOR, events)
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
        while True:
            self._work(MAX_EVENTS, MAX_HELD_BYTES)
            events = self._deliver()
            left = deadline - time.monotonic()
            if events or left <= 0:
                return events
            self._wait(left)

    def flush(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        # Answers of the peers come behind their frames: all frames of all windows must fit.
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
                # The peer answers once it has read everything. Until then our end goes on reading:
                # a socket closed over unread bytes would take back what is still under way.
                for peer in self._peers():
                    if peer.state is _State.OPEN:
                        self._post(peer, b"", _CLOSED)
                while any(peer.state is not _State.OVER for peer in self._peers()):
                    if (left := deadline - time.monotonic()) <= 0:
                        break
                    self._wait(left)
                    self._work(MAX_EVENTS, MAX_HELD_BYTES)
        finally:
            for peer in self._peers():
                peer.state = _State.OVER
                peer.outbox.clear()
            self._shut()

    # One round of work

    def _work(self, events: int, held: int) -> None:
        if not self._open:
            return
        self._look_around()
        self._receive(events, held)
        for peer in self._peers():
            if peer.state is _State.OPEN:
                self.pump(peer)

    def _wait(self, seconds: float) -> None:
        if not self._open:
            time.sleep(seconds)
            return
        due = [peer.looks[0] for peer in self._peers() if peer.looks]
        if due:
            seconds = min(seconds, max(0.0, min(due) - time.monotonic()))
        # Rounded up, so that the last millisecond is not spent in a busy loop.
        self._poller.poll(int(seconds * 1000) + 1)

    def _look_around(self) -> None:
        for _ in range(MAX_EVENTS):
            try:
                message = recv_monitor_message(self._monitor, zmq.DONTWAIT)
            except zmq.Again:
                break
            self._noticed(message["event"], message["value"])
        now = time.monotonic()
        for peer in self._peers():
            if peer.looks and peer.looks[0] <= now:
                peer.looks.popleft()
                self._look_at(peer)

    def _receive(self, events: int, held: int) -> None:
        reads = 0
        while len(self._events) < events and self._held < held and reads < _READS:
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

    def _understand(self, peer: _Peer, parts: list[zmq.Frame]) -> None:
        """One message of a known peer, without its route."""
        peer.quiet_since = self._read_total
        peer.came += sum(len(part) + _PART_BYTES for part in parts)
        if peer.state is _State.OVER:
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
                self._post(peer, b"", _CLOSED)
                self._lose(peer, reason)
                return
        self._post(peer, b"", _CLOSED)
        self._lose(peer, LostReason.MALFORMED)

    def _deliver(self) -> list[Event]:
        events: list[Event] = []
        while self._events and len(events) < MAX_EVENTS:
            event = self._events.popleft()
            peer = event.channel
            if isinstance(event, Received):
                self._held -= len(event.frame)
            if not isinstance(peer, _Peer) or peer.forgotten:
                continue
            events.append(event)
            if isinstance(event, Received):
                peer.read += 1
                if peer.read - peer.told >= ACK_EVERY and peer.state is _State.OPEN:
                    self._tell(peer)
        return events

    # Sending

    def pump(self, peer: _Peer) -> None:
        """Give libzmq what waits for this peer, as far as the window allows."""
        while peer.outbox and peer.sent - peer.taken < WINDOW:
            if not self._post(peer, peer.outbox.head()):
                break
            peer.outbox.pop()
            peer.sent += 1
        if peer.read - peer.told >= ACK_EVERY and peer.state is _State.OPEN:
            self._tell(peer)

    def _tell(self, peer: _Peer) -> None:
        if self._post(peer, b"", peer.read.to_bytes(8, "big")):
            peer.told = peer.read

    def _post(self, peer: _Peer, *parts: Buffer) -> bool:
        """Hand one message to libzmq, which copies it; False if it was not taken."""
        if not self._open:
            return False
        message = parts if peer.route is None else (peer.route, *parts)
        try:
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

    def forget(self, peer: _Peer) -> None:
        """Our caller closed the channel."""
        if not peer.forgotten:
            peer.forgotten = True
            peer.outbox.clear()
            if peer.state is not _State.OVER:
                self._post(peer, b"", _CLOSED)
                peer.state = _State.OVER
                self._over(peer)

    def _leave(self, peer: _Peer, reason: LostReason) -> None:
        """The connection is gone; what it brought is still read."""
        peer.outbox.clear()
        peer.looks.clear()
        if peer.state is _State.OPEN:
            peer.state = _State.LEAVING
            peer.reason = reason
            peer.quiet_since = self._read_total

    def _lose(self, peer: _Peer, reason: LostReason) -> None:
        """Report the end, behind everything that was read."""
        peer.outbox.clear()
        if peer.state is not _State.OVER:
            peer.state = _State.OVER
            if not peer.forgotten:
                self._events.append(Lost(peer, reason))
        self._over(peer)

    def _announce(self, peer: _Peer) -> None:
        if not peer.announced:
            peer.announced = True
            self._events.append(Opened(peer))

    def _shut(self) -> None:
        # The order matters: no more events, no more socket, and only then the monitor's reader.
        self._open = False
        self._socket.monitor(None, 0)
        self._socket.close(0)
        self._unwatch()
        self._monitor.close(0)
        self._context.term()

    def _unwatch(self) -> None:
        """The monitor was stopped."""

    @abstractmethod
    def _peers(self) -> list[_Peer]: ...

    @abstractmethod
    def _noticed(self, event: int, value: int) -> None:
        """The monitor saw something."""

    @abstractmethod
    def _look_at(self, peer: _Peer) -> None:
        """The time came to look whether this peer is there."""

    @abstractmethod
    def _arrived(self, parts: list[zmq.Frame]) -> None:
        """A message was read."""

    @abstractmethod
    def _settle(self, *, drained: bool) -> None:
        """Reading stopped; `drained`: because nothing is left. Report who left."""

    @abstractmethod
    def _over(self, peer: _Peer) -> None:
        """This connection was reported or forgotten."""


class Listener(_ZmqEndpoint):
    """One ROUTER socket; `address` is where it really listens.

    State is kept for `max_channels` connections, of one proven party for `PARTY_SHARE`. A further
    one is told `FULL` at each thing it sends and otherwise ignored. A connection that we closed
    counts until the peer has gone, or over TCP, where the `Doorman` sees to it that it goes, not.
    """

    def __init__(
        self,
        address: str,
        keys: ServerKeys | None,
        max_channels: int,
        max_pending: int,
        first_bytes: int,
        heartbeat: Heartbeat,
    ) -> None:
        super().__init__(zmq.ROUTER, address, max_pending, heartbeat)
        self._by_route: dict[bytes, _Peer] = {}
        self._max_channels = max_channels
        self._share = max_channels
        self._names: dict[str, str] | None = None
        self._zap: ZapHandler | None = None
        self._doorman: doorman.Doorman | None = None
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if address.startswith("ipc:"):  # strangers cannot get at it
            self._watch(zmq.EVENT_DISCONNECTED)
        else:
            self._socket.monitor(_MONITOR, doorman.EVENTS)
            self._doorman = doorman.Doorman(self._context, _MONITOR, first_bytes)
            self._watch(zmq.EVENT_DISCONNECTED, doorman.FORWARD)
        try:
            if keys is not None:
                require_curve()
                self._names = {key: party for party, key in keys.parties.items()}
                self._share = min(PARTY_SHARE, max_channels)
                # Before bind: a domain without a running handler lets strangers in.
                self._zap = ZapHandler(self._context, frozenset(self._names))
                self._socket.setsockopt(zmq.CURVE_SERVER, 1)
                self._socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
                self._socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
                self._socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
                self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._shut()
            raise ConfigError(f"cannot listen at {address}: {error.strerror}") from None
        except BaseException:
            self._shut()
            raise
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        if self._doorman is not None:
            self._doorman.port = int(self.address.rpartition(":")[2])

    def _peers(self) -> list[_Peer]:
        return list(self._by_route.values())

    def _noticed(self, event: int, value: int) -> None:  # noqa: ARG002 - only one event is asked for
        for peer in self._peers():
            if peer.fd in (value, -1):
                self._suspect(peer)

    def _suspect(self, peer: _Peer) -> None:
        now = time.monotonic()
        peer.looks = deque(now + delay for delay in _PROBES)

    def _look_at(self, peer: _Peer) -> None:
        self._tell(peer)

    def _arrived(self, parts: list[zmq.Frame]) -> None:
        route, body = parts[0].bytes, parts[1:]
        peer = self._by_route.get(route)
        if peer is None:
            self._newcomer(route, body)
        elif self._names is not None and self._name(parts[-1]) != peer.party:
            logger.debug("a message under another party's route was dropped")
        else:
            self._understand(peer, body)

    def _newcomer(self, route: bytes, body: list[zmq.Frame]) -> None:
        party = self._name(body[0]) if self._names is not None and body else None
        known = self._names is None or party is not None
        if self._deaf or not known or len(route) != 5 or route[0] != 0:
            return
        peer = _Peer(self, party, route, _descriptor(body[0]) if body else -1)
        if len(body) != 1 or len(body[0]) == 0:
            # Closing before the first frame; anything else has no connection to belong to.
            self._post(peer, b"", _CLOSED)
            return
        counted = [
            other
            for other in self._by_route.values()
            if self._doorman is None or other.state is not _State.OVER
        ]
        mine = sum(other.party == party for other in counted)
        if len(counted) >= self._max_channels or mine >= self._share:
            self._post(peer, b"", _FULL)
            return
        self._by_route[route] = peer
        if self._doorman is not None:
            self._doorman.heard(peer.fd, peer)
        # Its end may have been noticed before its first frame was read.
        self._suspect(peer)
        self._understand(peer, body)

    def _name(self, part: zmq.Frame) -> str | None:
        """The party that CURVE and the handler proved for this message."""
        try:
            return (self._names or {}).get(str(part.get("User-Id")))
        except (zmq.ZMQError, KeyError):
            return None

    def _settle(self, *, drained: bool) -> None:
        for peer in self._peers():
            # Peers are read in turn: under a flood from others, one that brings nothing for so
            # long has nothing left.
            quiet = self._read_total - peer.quiet_since > 8 * self._max_channels
            if peer.state is _State.LEAVING and (drained or quiet):
                self._lose(peer, peer.reason)
                self._by_route.pop(peer.route or b"", None)

    def _leave(self, peer: _Peer, reason: LostReason) -> None:
        if peer.state is _State.OVER:
            self._by_route.pop(peer.route or b"", None)
        super()._leave(peer, reason)

    def _over(self, peer: _Peer) -> None:
        """Its route is remembered until the peer has gone, which it may have already."""
        self._suspect(peer)
        if self._doorman is not None:
            self._doorman.left(peer.fd)

    def _shut(self) -> None:
        if self._zap is not None:
            self._zap.stop()
        super()._shut()

    def _unwatch(self) -> None:
        if self._doorman is not None:
            self._doorman.stop()


class Connector(_ZmqEndpoint):
    """One DEALER socket with one `channel`; it is closed as soon as the connection is over."""

    def __init__(
        self, address: str, keys: ClientKeys | None, max_pending: int, heartbeat: Heartbeat
    ) -> None:
        super().__init__(zmq.DEALER, address, max_pending, heartbeat)
        self.channel: Channel
        self.channel = self._peer = _Peer(self, keys.name if keys else None, None, -1)
        self._connected = False
        self._final = False
        self._give_up_at = 0.0
        self._socket.setsockopt(zmq.RECONNECT_IVL, _NEVER)
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, int(CONNECT_SECONDS * 1000))
        self._watch(
            zmq.EVENT_CONNECTED
            | zmq.EVENT_CLOSED
            | zmq.EVENT_CONNECT_RETRIED
            | zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_DISCONNECTED
            | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
            | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
            | zmq.Event.HANDSHAKE_FAILED_AUTH
        )
        try:
            if keys is not None:
                require_curve()
                self._socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode())
                self._socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
                self._socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self._shut()
            raise ConfigError(f"cannot connect to {address}: {error.strerror}") from None
        except BaseException:
            self._shut()
            raise

    def _peers(self) -> list[_Peer]:
        return [self._peer]

    def _noticed(self, event: int, value: int) -> None:  # noqa: ARG002 - one connection only
        if event == zmq.EVENT_CONNECTED:
            self._connected = True
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._announce(self._peer)
        elif event == zmq.EVENT_DISCONNECTED:
            self._leave(
                self._peer,
                LostReason.DISCONNECTED if self._peer.announced else LostReason.HANDSHAKE_FAILED,
            )
        elif event in _HANDSHAKE_FAILURES:
            self._leave(self._peer, LostReason.HANDSHAKE_FAILED)
        elif not self._connected:
            self._leave(self._peer, LostReason.REFUSED)
        if event == zmq.EVENT_CONNECT_RETRIED:
            # libzmq has let go of the old connection: all of its frames can be read now.
            self._final = True

    def _leave(self, peer: _Peer, reason: LostReason) -> None:
        if peer.state is _State.OPEN:
            self._give_up_at = time.monotonic() + _GRACE
        super()._leave(peer, reason)
        if peer.state is _State.LEAVING:
            peer.looks.append(self._give_up_at)  # so that `_wait` wakes up for it

    def _look_at(self, peer: _Peer) -> None:
        """Nothing: `_settle` follows."""

    def _arrived(self, parts: list[zmq.Frame]) -> None:
        self._understand(self._peer, parts)

    def _settle(self, *, drained: bool) -> None:
        final = self._final or time.monotonic() >= self._give_up_at
        if self._peer.state is _State.LEAVING and drained and final:
            self._lose(self._peer, self._peer.reason)

    def _over(self, peer: _Peer) -> None:  # noqa: ARG002 - there is only one
        if self._open and not self._deaf:
            self._shut()


def _descriptor(part: zmq.Frame) -> int:
    """The file descriptor that a message came through; -1 where libzmq does not say."""
    try:
        return int(part.get(zmq.SRCFD))
    except (zmq.ZMQError, ValueError, TypeError):
        return -1
