"""The listening side: one ROUTER socket, which peers it accepts, and which of them have gone."""

from __future__ import annotations

import logging
import time
from collections import deque

import zmq

from heterofed.errors import ConfigError
from heterofed.transport.base import LostReason
from heterofed.transport.zeromq import limiter
from heterofed.transport.zeromq.endpoint import (
    CLOSED,
    FULL,
    MONITOR,
    Connection,
    State,
    ZmqEndpoint,
)
from heterofed.transport.zeromq.heartbeat import Heartbeat
from heterofed.transport.zeromq.routes import first_route, is_automatic, was_made
from heterofed.transport.zeromq.zap import ServerKeys, ZapHandler, require_curve

logger = logging.getLogger("heterofed")

HANDSHAKE_SECONDS = 5.0
"""The longest time in seconds for the handshake of a new connection."""

PARTY_SHARE = 8
"""The most connections of one proven party: one in use, and others not yet known to be lost."""

_PROBES = (
    0.0,
    0.005,
    0.02,
    0.1,
    0.5,
    1.0,
)  # seconds between a hint that a peer has gone and each check


class Listener(ZmqEndpoint):
    """The listening side.

    The listener keeps `max_channels` connections, and at most `PARTY_SHARE` of one proven party. A
    further connection is told `FULL` for each message that it sends, and is otherwise ignored. A
    connection that this side closed counts until the peer has gone; over TCP it does not count,
    because the `ConnectionLimiter` closes it.

    Attributes:
        address: the address at which the socket listens.
        first_route: the number in the first routing id that the socket made.
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
        super().__init__(zmq.ROUTER, address, max_pending, HANDSHAKE_SECONDS, heartbeat)
        self._by_route: dict[bytes, Connection] = {}
        self._max_channels = max_channels
        self._share = max_channels
        self._names: dict[str, str] | None = None
        self._zap: ZapHandler | None = None
        self._limiter: limiter.ConnectionLimiter | None = None
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if address.startswith("ipc:"):  # only this user can reach it
            self._watch(zmq.EVENT_DISCONNECTED)
        else:
            self._socket.monitor(MONITOR, limiter.EVENTS)
            self._limiter = limiter.ConnectionLimiter(self._context, MONITOR, first_bytes)
            self._watch(zmq.EVENT_DISCONNECTED, limiter.FORWARD)
        try:
            if keys is not None:
                require_curve()
                self._names = {key: party for party, key in keys.parties.items()}
                self._share = min(PARTY_SHARE, max_channels)
                # Start it before bind: a domain without a running handler admits everybody.
                self._zap = ZapHandler(self._context, keys)
                self._socket.setsockopt(zmq.CURVE_SERVER, 1)
                self._socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
                self._socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
                self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            self.first_route = first_route(self._context, self._socket)
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._shut()
            raise ConfigError(f"cannot listen at {address}: {error.strerror}") from None
        except BaseException:
            self._shut()
            raise
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        if self._limiter is not None:
            self._limiter.port = int(self.address.rpartition(":")[2])

    def _peers(self) -> list[Connection]:
        return list(self._by_route.values())

    def _noticed(self, event: int, value: int) -> None:  # noqa: ARG002 - only one event is asked for
        for peer in self._peers():
            if peer.fd in (value, -1):
                self._suspect(peer)

    def _suspect(self, peer: Connection) -> None:
        now = time.monotonic()
        peer.looks = deque(now + delay for delay in _PROBES)

    def _look_at(self, peer: Connection) -> None:
        self._tell(peer)

    def _arrived(self, parts: list[zmq.Frame]) -> None:
        route, body = parts[0].bytes, parts[1:]
        peer = self._by_route.get(route)
        if peer is None:
            self._newcomer(route, body)
        elif self._names is not None and self._name(parts[-1]) != peer.party:
            logger.debug("a message under another party's route was dropped")
        else:
            self._process(peer, body)

    def _newcomer(self, route: bytes, body: list[zmq.Frame]) -> None:
        party = self._name(body[0]) if self._names is not None and body else None
        known = self._names is None or party is not None
        if self._deaf or not known:
            return
        if not self._was_made(route):
            logger.warning(
                "%s claims a routing id: its connection is closed", party or "an unknown peer"
            )
            if self._limiter is not None and body:
                self._limiter.close_now(_descriptor(body[0]))
            return
        peer = Connection(self, party, route, _descriptor(body[0]) if body else -1)
        if len(body) != 1 or len(body[0]) == 0:
            # The peer closes before its first frame; any other message belongs to no connection.
            self._post(peer, b"", CLOSED)
            return
        counted = [
            other
            for other in self._by_route.values()
            if self._limiter is None or other.state is not State.OVER
        ]
        mine = sum(other.party == party for other in counted)
        if len(counted) >= self._max_channels or mine >= self._share:
            self._post(peer, b"", FULL)
            return
        self._by_route[route] = peer
        if self._limiter is not None:
            self._limiter.heard(peer.fd, peer)
        # The monitor may report its end before its first frame is read.
        self._suspect(peer)
        self._process(peer, body)

    def _was_made(self, route: bytes) -> bool:
        """Whether ROUTER made this routing id; a Unix socket admits this user alone, so any id will
        do.
        """
        if self._limiter is None:
            return is_automatic(route)
        return was_made(route, self.first_route, self._limiter.accepted)

    def _name(self, part: zmq.Frame) -> str | None:
        """Return the party that CURVE and the handler proved for this message."""
        try:
            return (self._names or {}).get(str(part.get("User-Id")))
        except (zmq.ZMQError, KeyError):
            return None

    def _settle(self, *, drained: bool) -> None:
        for peer in self._peers():
            # Peers are read in turn, so even under a flood by others, a peer of which nothing
            # was read for so long has nothing left.
            quiet = self._read_total - peer.quiet_since > 8 * self._max_channels
            if peer.state is State.LEAVING and (drained or quiet):
                self._lose(peer, peer.reason)
                self._by_route.pop(peer.route or b"", None)

    def _leave(self, peer: Connection, reason: LostReason) -> None:
        if peer.state is State.OVER:
            self._by_route.pop(peer.route or b"", None)
        super()._leave(peer, reason)

    def _over(self, peer: Connection) -> None:
        """Remember the routing id until the peer has gone, unless it has gone already."""
        self._suspect(peer)
        if self._limiter is not None:
            self._limiter.left(peer.fd)

    def _shut(self) -> None:
        if self._zap is not None:
            self._zap.stop()
        super()._shut()

    def _unwatch(self) -> None:
        if self._limiter is not None:
            self._limiter.stop()


def _descriptor(part: zmq.Frame) -> int:
    """Return the file descriptor of a message's connection, or -1 if libzmq does not report it."""
    try:
        return int(part.get(zmq.SRCFD))
    except (zmq.ZMQError, ValueError, TypeError):
        return -1
