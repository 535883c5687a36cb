"""Limits the connections of the server: their number, and the time for a first request."""

from __future__ import annotations

from asyncio import Transport

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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
