"""Makes a server of an application, whose connections are limited, and a socket that listens."""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from heterofed.transport.http.connections import Connection, Limits

HANDSHAKE_SECONDS = 5.0
"""The longest time in seconds of a handshake of TLS; whoever can reach the port can begin one."""

LOOK_SECONDS = 30
"""The time in seconds between two looks at the files of TLS, which are renewed while a server runs.
"""


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


def http_server(
    app: Any,
    limits: Limits,
    *,
    drain_seconds: int,
    context: ssl.SSLContext | None = None,
    look: Callable[[], Awaitable[None]] | None = None,
) -> LimitedServer:
    """Return a server of an application, which does not listen yet.

    Args:
        app: the application.
        limits: the limits of its connections.
        drain_seconds: the longest time in seconds that requests under way have at the end.
        context: the settings of TLS; None encrypts nothing.
        look: called every `LOOK_SECONDS` while it runs.
    """
    config = uvicorn.Config(
        app,
        http=functools.partial(Connection, limits=limits),  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=limits.keep_seconds,
        timeout_graceful_shutdown=drain_seconds,
        callback_notify=look,
        timeout_notify=LOOK_SECONDS,
    )
    config.load()
    config.ssl = context
    return LimitedServer(config)


def listening(address: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any free one.

    Raises:
        OSError: the address cannot be used; `strerror` says why.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if not 0 <= port < 1 << 16:
        raise OSError(errno.EINVAL, "ports are from 0 to 65535")
    listener = socket.create_server((address, port), family=family, backlog=1024)
    # Connections inherit it. Without it the body of an answer waits up to 40 ms until the caller
    # has acknowledged the headers; asyncio sets it only for sockets that it made itself.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
