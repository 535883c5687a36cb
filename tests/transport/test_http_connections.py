"""What callers without a token can do to a server: nothing that lasts, and nothing that grows.

The same holds for each server over HTTP.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from heterofed.errors import ConfigError
from heterofed.serving.server import ServedTask, Server
from heterofed.transport.http.connections import Limits
from heterofed.watch.serve import page_server

FILLER = b"x" * (1 << 16)
MOST_SENT = 16 << 20
"""More than the buffers of a connection on both sides."""

GIVEN: dict[str, Any] = Limits.__init__.__kwdefaults__  # type: ignore[assignment]
HEAD_BYTES, MOST_AHEAD = GIVEN["head_bytes"], GIVEN["ahead"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A server that runs.

    Attributes:
        port: where it listens.
        healthy: a request that is answered with 200.
        post: the beginning of one with a body, which is answered with `status`.
    """

    port: int
    healthy: bytes
    post: bytes
    status: int

    @property
    def chunked(self) -> bytes:
        return self.post + b"Transfer-Encoding: chunked\r\n\r\n"


def asks(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()


def models(_: Path, port: int = 0) -> tuple[Any, socket.socket, dict[str, Any]]:
    """The server of models (`heterofed serve`)."""
    scheduler: Any = None  # no link is opened
    task = ServedTask(scheduler=scheduler, task_id="t", token="a-token-of-some-length")
    made = Server([task], port=port, deadline=0.3, max_bytes=1000, max_rows=10)
    post = asks("/v1/models/t:predict", "POST")
    healthy = asks("/healthz") + b"\r\n"
    return made._server, made._listener, {"healthy": healthy, "post": post, "status": 401}


def page(folder: Path, port: int = 0) -> tuple[Any, socket.socket, dict[str, Any]]:
    """The server of the live page (`heterofed watch`)."""
    server, listener, address = page_server(folder, port=port)
    path = "/" + address.split("/", 3)[3]
    healthy = asks(path) + b"\r\n"
    return server, listener, {"healthy": healthy, "post": asks(path, "POST"), "status": 405}


SERVERS = [models, page]


@pytest.fixture(params=SERVERS)
def start(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Site]]:
    """What starts a server with short times, or with other limits."""
    with contextlib.ExitStack() as stack:

        def started(**limits: Any) -> Site:
            for name, given in ({"head_seconds": 0.3} | limits).items():
                monkeypatch.setitem(GIVEN, name, given)
            server, listener, about = request.param(tmp_path)
            stack.enter_context(listener)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, server, "should_exit", True)
            return Site(port=listener.getsockname()[1], **about)

        yield started


@pytest.fixture
def site(start: Callable[..., Site]) -> Site:
    return start()


@contextlib.contextmanager
def caller(site: Site) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as link:
        yield link


def answer(link: socket.socket) -> int:
    """The status of an answer, which is read whole; 0 if the connection is closed."""
    came = HTTPResponse(link)
    with contextlib.suppress(ConnectionError, HTTPException):
        came.begin()
        came.read()
        return came.status
    return 0


Flood = Callable[[Site], tuple[bytes, Iterable[bytes]]]

FLOODS: dict[str, Flood] = {
    "one header": lambda site: (site.healthy[:-2] + b"X: ", itertools.repeat(FILLER)),
    "many headers": lambda site: (
        site.healthy[:-2],
        (b"X%d: y\r\n" % n for n in itertools.count()),
    ),
    "the path": lambda _: (b"GET /", itertools.repeat(FILLER)),
    "the method": lambda _: (b"", itertools.repeat(FILLER)),
    "a second request": lambda site: (
        site.healthy + site.healthy[:-2] + b"X: ",
        itertools.repeat(FILLER),
    ),
    "trailers": lambda site: (site.chunked + b"0\r\nX: ", itertools.repeat(FILLER)),
    "the size of a chunk": lambda site: (site.chunked + b"1;x=", itertools.repeat(FILLER)),
    "a body after its refusal": lambda site: (
        site.chunked,
        itertools.repeat(b"10000\r\n" + FILLER + b"\r\n"),
    ),
    "tiny chunks": lambda site: (site.chunked, itertools.repeat(b"1\r\nx\r\n" * 10_000)),
}


@pytest.mark.parametrize("what", FLOODS)
def test_what_has_no_end_is_given_up(what: str, site: Site) -> None:
    first, rest = FLOODS[what](site)
    ends = time.monotonic() + 10
    with caller(site) as link, pytest.raises(OSError):
        link.sendall(first)
        sent = 0
        for part in rest:
            link.sendall(part)
            sent += len(part)
            assert time.monotonic() < ends
            if what != "a body after its refusal":  # which nobody keeps
                assert sent < MOST_SENT
    with caller(site) as link:
        link.sendall(site.healthy)
        assert answer(link) == 200


HALVES: dict[str, Callable[[Site], bytes]] = {
    "nothing": lambda _: b"",
    "a head": lambda site: site.post,
    "a second head": lambda site: site.healthy + site.post,
    "no body": lambda site: site.post + b"Content-Length: 9\r\n\r\n",
    "half a body": lambda site: site.post + b"Content-Length: 9\r\n\r\n12345",
    "a trailer": lambda site: site.chunked + b"0\r\nX: ",
    "a GET": lambda site: site.healthy[:-2] + b"Content-Length: 9\r\n\r\n",
}


@pytest.mark.parametrize("what", HALVES)
def test_what_stops_halfway_is_given_up(what: str, site: Site) -> None:
    with caller(site) as link:
        link.sendall(HALVES[what](site))
        ends = time.monotonic() + 10
        while answer(link):
            assert time.monotonic() < ends


def test_a_second_head_that_comes_letter_by_letter_is_given_up(site: Site) -> None:
    with caller(site) as link:
        link.sendall(site.healthy)
        assert answer(link) == 200
        ends = time.monotonic() + 10
        with pytest.raises(OSError):
            while True:
                link.sendall(b"G")
                assert time.monotonic() < ends
                time.sleep(0.02)


def test_a_long_head_is_refused_with_a_reason(site: Site) -> None:
    with caller(site) as link:
        link.sendall(site.healthy[:-2])
        time.sleep(0.1)  # so that the rest does not come with the first bytes
        link.sendall(b"X: " + b"x" * HEAD_BYTES)
        assert answer(link) == 431


def test_a_head_and_a_body_of_usual_sizes_are_read(site: Site) -> None:
    head = b"Content-Length: 500\r\nX: %s\r\n\r\n" % (b"x" * (HEAD_BYTES // 2))
    with caller(site) as link:
        for _ in range(3):
            link.sendall(site.post + head + b" " * 500)
            assert answer(link) == site.status  # and the connection stays
    with caller(site) as link:
        link.sendall(site.chunked + b"1\r\nx\r\n" * 500 + b"0\r\n\r\n")
        assert answer(link) == site.status


def test_requests_ahead_of_their_answers_are_few(site: Site) -> None:
    with caller(site) as link:
        link.sendall(site.healthy * MOST_AHEAD)
        came = b""
        while came.count(b"200 OK") < MOST_AHEAD:
            came += (part := link.recv(1 << 16))
            assert part
    with caller(site) as link, contextlib.suppress(ConnectionError):
        link.sendall(site.healthy * 5000)
        came = b""
        while part := link.recv(1 << 16):
            came += part
        assert came.count(b"200 OK") <= MOST_AHEAD


def test_idle_connections_keep_nobody_out(
    start: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("heterofed.serving.server", "heterofed.watch.serve"):
        monkeypatch.setattr(f"{module}.MAX_CONNECTIONS", 3)
    site = start(head_seconds=30)
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(caller(site)) for _ in range(3)]
        for each in links[1:]:
            each.sendall(site.healthy)
            assert answer(each) == 200
        for _ in range(5):
            last = stack.enter_context(caller(site))
            last.sendall(site.healthy)
            assert answer(last) == 200


@pytest.mark.parametrize("make", SERVERS)
@pytest.mark.parametrize("port", [None, 1 << 20])
def test_a_port_that_cannot_be_used_is_named(make: Any, port: int | None, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = taken.getsockname()[1] if port is None else port
        with pytest.raises(ConfigError, match=rf"port {given} \(\w.*give another --port"):
            make(tmp_path, given)
