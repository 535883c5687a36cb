"""The page's server, until it is interrupted, or until whoever started it has ended."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from heterofed.errors import ConfigError
from heterofed.watch.extra import needed

LOOPBACK = "127.0.0.1"
BYE_SECONDS = 3


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
    needed()
    import uvicorn

    from heterofed.watch.app import Watch
    from heterofed.watch.connections import Connection
    from heterofed.watch.guard import Guard, new_token

    token, listener = new_token(), _listening(host, port)
    watch = Watch(results, tasks, leaving=lambda: server.should_exit)
    is_local = host in (LOOPBACK, "localhost", "::1")
    guard = Guard(
        watch.app(), token, names=() if is_local else _own_names(host), numbers=not is_local
    )
    config = uvicorn.Config(
        guard,
        http=Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=BYE_SECONDS,
    )
    server = uvicorn.Server(config)
    if until_stdin_ends:
        threading.Thread(target=_end_with_stdin, args=[server], daemon=True).start()
    say(f"http://{_shown(host)}:{listener.getsockname()[1]}/{token}/")
    with listener, contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"the page cannot be served at {host}, port {port} ({why}): give another --port, or"
            " --host with an address of this machine"
        ) from None
    # Inherited by connections, whose small events would otherwise wait for acknowledgements.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _own_names(host: str) -> set[str]:
    return {host, socket.gethostname(), socket.getfqdn()}


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - only to be shown
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _end_with_stdin(server: object) -> None:
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.buffer.read(4096):
            pass
    server.should_exit = True  # type: ignore[attr-defined]
