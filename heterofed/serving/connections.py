"""Limits the connections of the server: their number, and the times of a handshake and a first
request.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from asyncio import Transport

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from heterofed.serving.tls import HANDSHAKE_SECONDS

MAX_CONNECTIONS = 1024
"""The most connections at once; a further one is closed."""

FIRST_SECONDS = 5.0
"""The longest time in seconds that a connection may take for the headers of its first request."""


class Connection(HttpToolsProtocol):
    """A connection that is closed if there are too many, or if no request comes.

    Whoever can reach the port can open connections without the token.
    """

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Accept a connection."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(FIRST_SECONDS, self._end_if_silent, transport)

    def _end_if_silent(self, transport: Transport) -> None:
        if not self.cycle:
            transport.abort()


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
