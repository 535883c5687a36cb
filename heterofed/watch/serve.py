"""The page's server, until it is interrupted, or until whoever started it has ended."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from heterofed.errors import ConfigError
from heterofed.watch.extra import needed

if TYPE_CHECKING:
    from heterofed.transport.http.server import LimitedServer

LOOPBACK = "127.0.0.1"
BYE_SECONDS = 3

MAX_CONNECTIONS = 128
"""The most connections at once."""

KEEP_SECONDS = 5
"""The longest time in seconds from an answer to the next request."""


def serve(
    results: Path,
    tasks: tuple[str, ...] = (),
    *,
    host: str = LOOPBACK,
    port: int = 0,
    say: Callable[[str], None],
    until_stdin_ends: bool = False,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        results: the folder of results, `<results>/<task>/<party>`.
        tasks: the ids of the tasks to show; empty for all.
        host: the address to listen at. Any but a loopback one lets other machines in that know the
            address of the page.
        port: the port to listen at; 0 for any free one.
        say: called with the address of the page, which holds its token, once it can be opened.
        until_stdin_ends: whether to end when stdin does, as a child of another process.

    Raises:
        ConfigError: the extra `watch` is not installed, or the server cannot listen there.
    """
    server, listener, address = page_server(results, tasks, host=host, port=port)
    if until_stdin_ends:
        threading.Thread(target=_end_with_stdin, args=[server], daemon=True).start()
    say(address)
    with listener, contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def page_server(
    results: Path, tasks: tuple[str, ...] = (), *, host: str = LOOPBACK, port: int = 0
) -> tuple[LimitedServer, socket.socket, str]:
    """Return the server of the page, the socket at which it listens, and the page's address.

    Raises:
        ConfigError: see `serve`.
    """
    needed()
    from heterofed.transport.http.connections import Limits
    from heterofed.transport.http.server import http_server, listening
    from heterofed.watch.app import Watch
    from heterofed.watch.guard import Guard, new_token

    token = new_token()
    try:
        listener = listening(host, port)
    except OSError as error:
        raise ConfigError(
            f"the page cannot be served at {host}, port {port} ({error.strerror}): give another"
            " --port, or --host with an address of this machine"
        ) from None
    watch = Watch(results, tasks, leaving=lambda: server.should_exit)
    is_local = host in (LOOPBACK, "localhost", "::1")
    guard = Guard(
        watch.app(), token, names=() if is_local else _own_names(host), numbers=not is_local
    )
    limits = Limits(connections=MAX_CONNECTIONS, keep_seconds=KEEP_SECONDS)
    server = http_server(guard, limits, drain_seconds=BYE_SECONDS)
    return server, listener, f"http://{_shown(host)}:{listener.getsockname()[1]}/{token}/"


def _own_names(host: str) -> set[str]:
    return {host, socket.gethostname(), socket.getfqdn()}


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - only to be shown
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _end_with_stdin(server: LimitedServer) -> None:
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.buffer.read(4096):
            pass
    server.should_exit = True
