"""Limits the connections of the server: their number, what they may send, and how long it may take.

Whoever can reach the port can open connections without the token. The parser of requests sets no
limit, so a connection is given up if the head of a request, or what surrounds its body, is too long
or comes too slowly, or if many requests come before the answers to those before them.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from asyncio import TimerHandle, Transport
from typing import Any, Literal

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from heterofed.errors import RequestError
from heterofed.serving.bodies import write_error
from heterofed.serving.tls import HANDSHAKE_SECONDS, LOOK_SECONDS, RenewedContext

MAX_CONNECTIONS = 1024
"""The most connections at once; a further one takes the place of one that asks for nothing."""

HEAD_SECONDS = 5.0
"""The longest time in seconds for the head of a request and, once it is answered, for the rest of
its body, which nobody reads.
"""

HEAD_BYTES = 1 << 16
"""The most bytes of a head, and of what surrounds a body (sizes of chunks, trailers) beyond one
byte for each of the body. What comes with the first bytes of a request is not counted.
"""

MOST_AHEAD = 16
"""The most requests that may wait for the answers to those before them."""


Reads = Literal["nothing", "head", "body"]
"""What a connection reads at the moment."""


class Connection(HttpToolsProtocol):
    """A connection that is closed if it sends too much, or too slowly."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Accept a connection."""
        super().connection_made(transport)
        self._reads: Reads = "nothing"
        self._begun = self._around = self._body = self._of_body = 0
        self._timer: TimerHandle | None = None
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()
        self._give_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._take_time()
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being read or answered."""
        return self._reads == "nothing" and self._is_answered

    @property
    def _is_answered(self) -> bool:
        """Whether the last request whose head has come is answered; true before the first one."""
        return not self.cycle or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        begun, self._of_body = self._begun, 0
        super().data_received(data)
        if self._reads == "nothing":
            return
        if self._reads == "head" and self._timer is None:  # most heads come at once
            self._give_time()
        if self._begun != begun:
            return
        self._around += len(data) - self._of_body
        if self._around > HEAD_BYTES + (0 if self._is_answered else self._body):
            self._refuse()

    # -- called by the parser ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin to read a request."""
        if len(self.pipeline) >= MOST_AHEAD:
            raise ValueError("too many requests at once")  # becomes an answer of status 400
        super().on_message_begin()
        self._reads, self._begun = "head", self._begun + 1
        self._around = self._body = 0

    def on_headers_complete(self) -> None:
        """Begin to answer a request, and to read its body."""
        if self._timer is not None:
            self._take_time()
        self._reads = "body"
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Read a part of a body."""
        self._body += len(body)
        self._of_body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End to read a request."""
        if self._timer is not None:
            self._take_time()
        self._reads = "nothing"
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on after an answer; the rest of a body that nobody reads must come soon."""
        super().on_response_complete()
        if self._reads == "body" and self._is_answered:
            self._give_time()

    # -- within ------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Close a connection that asks for nothing, or else this one."""
        others = (each for each in self.connections if isinstance(each, Connection))
        idle = next((each for each in others if each is not self and each.is_idle), self)
        self.connections.discard(idle)
        idle.transport.abort()

    def _give_time(self) -> None:
        self._take_time()
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _take_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self) -> None:
        """Close the connection, with an answer if none is under way."""
        if self._reads != "head" or not self._is_answered or self.transport.is_closing():
            self.transport.abort()
            return
        body = write_error(
            RequestError(f"send a head of at most {HEAD_BYTES} bytes", code="too_large")
        )
        head = (
            "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class LimitedServer(uvicorn.Server):
    """A server that gives up a handshake of TLS which takes long; by default it may take 60 s."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        if self.config.ssl is None:
            await super().startup(sockets)
            return
        loop = asyncio.get_running_loop()
        limited = functools.partial(loop.create_server, ssl_handshake_timeout=HANDSHAKE_SECONDS)
        loop.create_server = limited  # type: ignore[method-assign]
        try:
            await super().startup(sockets)
        finally:
            del loop.create_server


def http_server(app: Any, context: RenewedContext | None, drain_seconds: int) -> LimitedServer:
    """Return a server of an application, which does not listen yet.

    Args:
        app: the application.
        context: the settings of TLS; None encrypts nothing.
        drain_seconds: the longest time in seconds that requests under way have at the end.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=drain_seconds,
        callback_notify=None if context is None else context.look,
        timeout_notify=LOOK_SECONDS,
    )
    config.load()
    config.ssl = context
    return LimitedServer(config)
