"""The connections of the page's server: few at once, and none that asks for nothing."""

from __future__ import annotations

from asyncio import Transport

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 128
"""The most connections at once; a further one is closed."""

FIRST_SECONDS = 5.0
"""The longest time in seconds that a connection may take for its first request."""


class Connection(H11Protocol):
    """A connection that is closed where there are too many, or where no request comes.

    Whoever can reach the port can open connections, without the token of the page.
    """

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(FIRST_SECONDS, self._end_if_silent, transport)

    def _end_if_silent(self, transport: Transport) -> None:
        if not self.cycle:
            transport.abort()
