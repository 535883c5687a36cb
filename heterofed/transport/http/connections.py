"""Limits the connections of a server: their number, what they may send, and how long it may take.

Whoever can reach the port can open connections without any token. The parser of requests sets no
limit, so a connection is given up if the head of a request, or what surrounds its body, is too long
or comes too slowly, or if many requests come before the answers to those before them.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PLAIN = "text/plain; charset=utf-8"


def _plainly(text: str) -> tuple[str, bytes]:
    return PLAIN, f"{text}\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of the connections of a server.

    Attributes:
        connections: the most connections at once; a further one takes the place of one that asks
            for nothing, if there is any.
        keep_seconds: the longest time in seconds from an answer to the next request.
        head_seconds: the longest time in seconds for the head of a request and, once it is
            answered, for the rest of its body, which nobody reads.
        head_bytes: the most bytes of a head, and of what surrounds a body (sizes of chunks,
            trailers) beyond one byte for each of the body. What comes with the first bytes of a
            request is not counted.
        ahead: the most requests that may wait for the answers to those before them.
        refused: returns the type and the body of the answer that refuses a head, of its text.
    """

    connections: int
    keep_seconds: int
    head_seconds: float = 5.0
    head_bytes: int = 1 << 16
    ahead: int = 16
    refused: Callable[[str], tuple[str, bytes]] = _plainly


Reads = Literal["nothing", "head", "body"]
"""The part of a request that a connection reads at the moment."""


class Connection(HttpToolsProtocol):
    """A connection that is closed if it sends too much, or too slowly."""

    def __init__(self, *given: Any, limits: Limits, **named: Any) -> None:
        super().__init__(*given, **named)
        self._limits = limits

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Accept a connection."""
        super().connection_made(transport)
        self._reads: Reads = "nothing"
        self._begun = self._around = self._body = self._of_body = 0
        self._timer: TimerHandle | None = None
        if len(self.connections) > self._limits.connections:
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
        if self._around > self._limits.head_bytes + (0 if self._is_answered else self._body):
            self._refuse()

    # -- called by the parser ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin to read a request."""
        if len(self.pipeline) >= self._limits.ahead:
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
        self._timer = self.loop.call_later(self._limits.head_seconds, self.transport.abort)

    def _take_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self) -> None:
        """Close the connection, with an answer if none is under way."""
        if self._reads != "head" or not self._is_answered or self.transport.is_closing():
            self.transport.abort()
            return
        form, body = self._limits.refused(f"send a head of at most {self._limits.head_bytes} bytes")
        head = (
            f"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: {form}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
