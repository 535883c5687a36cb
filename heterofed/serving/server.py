"""Runs the HTTP server of models at the Host, beside the links to the other parties.

The server has the main thread, which gets the signals, and the links of each model have a thread
of their own, in which its hooks run. On SIGTERM the server takes no further connection, answers
what it has taken, and then lets the links end.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heterofed.errors import ConfigError, RequestError
from heterofed.files import own_folder, put_in_place, read
from heterofed.hetero_nn import HeteroNNHostScheduler
from heterofed.hetero_nn.serve.host import serve_scores
from heterofed.serving.extra import check_installed
from heterofed.serving.tls import RenewedContext, Tls

logger = logging.getLogger("heterofed")

LOOPBACK = "127.0.0.1"

DRAIN_SECONDS = 10
"""The longest time in seconds that requests under way have after SIGTERM."""

MAX_CONNECTIONS = 1024
"""The most connections at once."""

KEEP_SECONDS = 75
"""The longest time in seconds from an answer to the next request."""

TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedTask:
    """One of the finished tasks that a server serves.

    Attributes:
        scheduler: the Host's scheduler with its hooks.
        task_id: the id of the finished task.
        token: the bearer token that callers must have; it may be empty if they must have a
            certificate.
        settings: further arguments of `heterofed.hetero_nn.serve.host.serve_scores`.
    """

    scheduler: HeteroNNHostScheduler
    task_id: str
    token: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def serve(
    scheduler: HeteroNNHostScheduler,
    task_id: str,
    *,
    token: str,
    say: Callable[[str], object] = logger.info,
    address: str = LOOPBACK,
    port: int = 8080,
    deadline: float = 5.0,
    max_bytes: int = 8 << 20,
    max_rows: int = 100_000,
    tls: Tls | None = None,
    **settings: Any,
) -> None:
    """Serve the predictions of a finished task over HTTP, until SIGTERM or Ctrl-C.

    Args:
        scheduler: the Host's scheduler with its hooks.
        task_id: the id of the finished task.
        token: the bearer token that callers must have.
        say: called with the address of the server once it listens.
        address: see `Server`.
        port: see `Server`.
        deadline: see `Server`.
        max_bytes: see `Server`.
        max_rows: see `Server`.
        tls: see `Server`.
        settings: further arguments of `heterofed.hetero_nn.serve.host.serve_scores`.

    Raises:
        ConfigError: the extra `serve` is not installed, the server cannot listen there, or a
            setting or file of this party is wrong.
    """
    task = ServedTask(scheduler=scheduler, task_id=task_id, token=token, settings=settings)
    server = Server(
        [task],
        address=address,
        port=port,
        deadline=deadline,
        max_bytes=max_bytes,
        max_rows=max_rows,
        tls=tls,
    )
    say(server.url(task_id))
    server.run()


class Server:
    """The HTTP server of finished tasks, which listens from its construction on.

    Args:
        tasks: the tasks, each of which has links of its own.
        address: the address to listen at.
        port: the port to listen at; 0 takes any free one.
        deadline: the longest time in seconds from a request to its answer.
        max_bytes: the most bytes of the body of a request.
        max_rows: the most rows of a request.
        tls: the certificates with which connections are encrypted; None encrypts nothing.

    Raises:
        ConfigError: see `serve`.
    """

    def __init__(
        self,
        tasks: Sequence[ServedTask],
        *,
        address: str = LOOPBACK,
        port: int = 8080,
        deadline: float = 5.0,
        max_bytes: int = 8 << 20,
        max_rows: int = 100_000,
        tls: Tls | None = None,
    ) -> None:
        check_installed()
        from heterofed.serving.api import Api
        from heterofed.transport.http.connections import Limits
        from heterofed.transport.http.server import http_server, listening

        if deadline <= 0:
            raise ConfigError(f"deadline={deadline}: give seconds, more than 0")
        self._tasks = tasks
        tokens = {each.task_id: each.token for each in tasks}
        if len(tokens) < len(tasks):
            raise ConfigError("a task is given twice; give each task once")
        context = None if tls is None else RenewedContext(tls)
        if not all(tokens.values()) and (tls is None or tls.client_ca is None):
            raise ConfigError("without a token, callers need certificates: give one of the two")
        self._api = Api(tokens, deadline=deadline, most_bytes=max_bytes, most_rows=max_rows)
        try:
            self._listener = listening(address, port)
        except OSError as error:
            raise ConfigError(
                f"nothing can be served at {address}, port {port} ({error.strerror}): give another"
                " --port, or --address with an address of this machine"
            ) from None
        self._failed: BaseException | None = None
        self._server: Any = http_server(
            self._api,
            Limits(connections=MAX_CONNECTIONS, keep_seconds=KEEP_SECONDS, refused=_refused),
            drain_seconds=DRAIN_SECONDS,
            context=context,
            look=None if context is None else context.look,
        )
        shown = f"[{address}]" if ":" in address else address
        self._base = (
            f"{'http' if tls is None else 'https'}://{shown}:{self._listener.getsockname()[1]}"
        )

    def url(self, task_id: str) -> str:
        """Return the address of a task's predictions."""
        return f"{self._base}/v1/models/{task_id}:predict"

    def run(self) -> None:
        """Serve until SIGTERM, Ctrl-C or `stop`.

        Raises:
            Exception: a link has ended by an error, which is raised here.
        """
        links = [
            threading.Thread(
                target=self._link, args=(each,), name=f"heterofed-serve-{each.task_id}", daemon=True
            )
            for each in self._tasks
        ]
        for each in links:
            each.start()
        with self._listener, _signals_noted(), contextlib.suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._listener])
        queues = [self._api.queues[each.task_id] for each in self._tasks]
        told = [bool(each.version) for each in queues]  # without a link nobody is told
        for queue in queues:
            queue.leave()
        ends = time.monotonic() + DRAIN_SECONDS
        for link, waits in zip(links, told, strict=True):
            link.join(max(0.0, ends - time.monotonic()) if waits else 0)
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """Take no further connection, and end when the requests under way are answered."""
        self._server.should_exit = True

    def _link(self, task: ServedTask) -> None:
        queue = self._api.queues[task.task_id]
        try:
            serve_scores(task.scheduler, task.task_id, queue, **task.settings)
        except BaseException as error:
            self._failed = error
        finally:
            self.stop()


def _refused(text: str) -> tuple[str, bytes]:
    from heterofed.serving.bodies import write_error

    return "application/json", write_error(RequestError(text, code="too_large"))


@contextmanager
def _signals_noted() -> Iterator[None]:
    """Let SIGTERM end the server alone, which raises the signal again when it has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def token_of(folder: Path, given: Path | None = None) -> str:
    """Return the token of a server: that of a file, or one that is made once in a folder.

    Args:
        folder: the folder in which the file `token` is made.
        given: the file with the token, if the user has one.

    Raises:
        ConfigError: the file cannot be read, or its token is too short.
    """
    path = given or folder / "token"
    try:
        if given is None and not path.exists():
            own_folder(folder)
            made = secrets.token_urlsafe(TOKEN_BYTES).encode()
            put_in_place(path, lambda file: file.write(made))
        content = path.read_bytes() if given else read(path)
        token = content.decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"the token in {path} cannot be read: give another file") from None
    if len(token) < 16:
        raise ConfigError(f"the token in {path} has {len(token)} characters: give 16 or more")
    return token
