"""The connecting side: one DEALER socket with one connection that is made once."""

from __future__ import annotations

import time

import zmq

from heterofed.errors import ConfigError
from heterofed.transport.base import Channel, LostReason
from heterofed.transport.zeromq.endpoint import Connection, State, ZmqEndpoint
from heterofed.transport.zeromq.heartbeat import Heartbeat
from heterofed.transport.zeromq.zap import ClientKeys, require_curve

CONNECT_SECONDS = 10.0
"""The longest time in seconds to connect, and again for the handshake."""

_NEVER = 24 * 3600 * 1000  # ms; libzmq would reconnect after it, but the socket is closed earlier
_GRACE = 0.25  # seconds after which the end is final even if libzmq does not report it

_HANDSHAKE_FAILURES = (
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL,
    zmq.Event.HANDSHAKE_FAILED_AUTH,
)


class Connector(ZmqEndpoint):
    """One DEALER socket with one `channel`; it is closed as soon as the connection is over."""

    def __init__(
        self, address: str, keys: ClientKeys | None, max_pending: int, heartbeat: Heartbeat
    ) -> None:
        super().__init__(zmq.DEALER, address, max_pending, CONNECT_SECONDS, heartbeat)
        self.channel: Channel
        self.channel = self._peer = Connection(self, keys.name if keys else None, None, -1)
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
            raise ConfigError(
                f"cannot connect to {address}: {error.strerror}; correct `address` in the task file"
            ) from None
        except BaseException:
            self._shut()
            raise

    def _peers(self) -> list[Connection]:
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
            # libzmq has released the old connection, so all of its frames can be read now.
            self._final = True

    def _leave(self, peer: Connection, reason: LostReason) -> None:
        if peer.state is State.OPEN:
            self._give_up_at = time.monotonic() + _GRACE
        super()._leave(peer, reason)
        if peer.state is State.LEAVING:
            peer.looks.append(self._give_up_at)  # so that `_wait` wakes up for it

    def _look_at(self, peer: Connection) -> None:
        """Do nothing, because `_settle` follows."""

    def _arrived(self, parts: list[zmq.Frame]) -> None:
        self._process(self._peer, parts)

    def _settle(self, *, drained: bool) -> None:
        final = self._final or time.monotonic() >= self._give_up_at
        if self._peer.state is State.LEAVING and drained and final:
            self._lose(self._peer, self._peer.reason)

    def _over(self, peer: Connection) -> None:  # noqa: ARG002 - there is only one
        if self._open and not self._deaf:
            self._shut()
