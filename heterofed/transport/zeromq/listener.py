"""The side that listens: one ROUTER socket, who may come, and who of them has gone."""

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
    Heartbeat,
    State,
    ZmqEndpoint,
)
from heterofed.transport.zeromq.routes import first_route, is_automatic, was_made
from heterofed.transport.zeromq.zap import ServerKeys, ZapHandler, require_curve

logger = logging.getLogger("heterofed")

HANDSHAKE_SECONDS = 5.0
"""What a newcomer's handshake may take."""

PARTY_SHARE = 8
"""Connections of one proven party at a time: one that works, and others that died unnoticed."""

_PROBES = (0.0, 0.005, 0.02, 0.1, 0.5, 1.0)  # seconds between a hint and each look


class Listener(ZmqEndpoint):
    """One ROUTER socket; `address` is where it really listens.

    State is kept for `max_channels` connections, of one proven party for `PARTY_SHARE`. A further
    one is told `FULL` at each thing it sends and otherwise ignored. A connection that we closed
    counts until the peer has gone, or over TCP, where the `Doorman` sees to it that it goes, not.

    `first_route` is the number in the first routing id that the socket made.
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
        self._doorman: limiter.Doorman | None = None
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if address.startswith("ipc:"):  # strangers cannot get at it
            self._watch(zmq.EVENT_DISCONNECTED)
        else:
            self._socket.monitor(MONITOR, limiter.EVENTS)
            self._doorman = limiter.Doorman(self._context, MONITOR, first_bytes)
            self._watch(zmq.EVENT_DISCONNECTED, limiter.FORWARD)
        try:
            if keys is not None:
                require_curve()
                self._names = {key: party for party, key in keys.parties.items()}
                self._share = min(PARTY_SHARE, max_channels)
                # Before bind: a domain without a running handler lets strangers in.
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
        if self._doorman is not None:
            self._doorman.port = int(self.address.rpartition(":")[2])

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
            self._understand(peer, body)

    def _newcomer(self, route: bytes, body: list[zmq.Frame]) -> None:
        party = self._name(body[0]) if self._names is not None and body else None
        known = self._names is None or party is not None
        if self._deaf or not known:
            return
        if not self._was_made(route):
            logger.warning(
                "%s claims a routing id: its connection is closed", party or "a stranger"
            )
            if self._doorman is not None and body:
                self._doorman.turn_out(_descriptor(body[0]))
            return
        peer = Connection(self, party, route, _descriptor(body[0]) if body else -1)
        if len(body) != 1 or len(body[0]) == 0:
            # Closing before the first frame; anything else has no connection to belong to.
            self._post(peer, b"", CLOSED)
            return
        counted = [
            other
            for other in self._by_route.values()
            if self._doorman is None or other.state is not State.OVER
        ]
        mine = sum(other.party == party for other in counted)
        if len(counted) >= self._max_channels or mine >= self._share:
            self._post(peer, b"", FULL)
            return
        self._by_route[route] = peer
        if self._doorman is not None:
            self._doorman.heard(peer.fd, peer)
        # Its end may have been noticed before its first frame was read.
        self._suspect(peer)
        self._understand(peer, body)

    def _was_made(self, route: bytes) -> bool:
        """Whether this is one of ROUTER's own ids; a Unix socket is this user's alone."""
        if self._doorman is None:
            return is_automatic(route)
        return was_made(route, self.first_route, self._doorman.accepted)

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
            if peer.state is State.LEAVING and (drained or quiet):
                self._lose(peer, peer.reason)
                self._by_route.pop(peer.route or b"", None)

    def _leave(self, peer: Connection, reason: LostReason) -> None:
        if peer.state is State.OVER:
            self._by_route.pop(peer.route or b"", None)
        super()._leave(peer, reason)

    def _over(self, peer: Connection) -> None:
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


def _descriptor(part: zmq.Frame) -> int:
    """The file descriptor that a message came through; -1 where libzmq does not say."""
    try:
        return int(part.get(zmq.SRCFD))
    except (zmq.ZMQError, ValueError, TypeError):
        return -1
