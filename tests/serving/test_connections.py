"""What callers without a token can do to the server: nothing that lasts, and nothing that grows."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse

import pytest

from heterofed.serving import connections
from heterofed.serving.api import Api
from heterofed.serving.connections import HEAD_BYTES, MOST_AHEAD, http_server
from heterofed.serving.server import listening

PREDICT = b"POST /v1/models/t:predict HTTP/1.1\r\nHost: x\r\n"
HEALTHY = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = PREDICT + b"Transfer-Encoding: chunked\r\n\r\n"
FILLER = b"x" * (1 << 16)
MOST_SENT = 16 << 20
"""More than the buffers of a connection on both sides."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server whose times are short."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    api = Api({"t": "a-token-of-some-length"}, deadline=0.3, most_bytes=1000, most_rows=10)
    server = http_server(api, None, 1)
    with listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def caller(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        yield link


def answer(link: socket.socket) -> int:
    """The status of an answer, which is read whole; 0 if the connection is closed."""
    came = HTTPResponse(link)
    with contextlib.suppress(ConnectionError, HTTPException):
        came.begin()
        came.read()
        return came.status
    return 0


FLOODS = {
    "one header": (b"GET /healthz HTTP/1.1\r\nX: ", itertools.repeat(FILLER)),
    "many headers": (b"GET /healthz HTTP/1.1\r\n", (b"X%d: y\r\n" % n for n in itertools.count())),
    "the path": (b"GET /", itertools.repeat(FILLER)),
    "the method": (b"", itertools.repeat(FILLER)),
    "a second request": (HEALTHY + b"GET /healthz HTTP/1.1\r\nX: ", itertools.repeat(FILLER)),
    "trailers": (CHUNKED + b"0\r\nX: ", itertools.repeat(FILLER)),
    "the size of a chunk": (CHUNKED + b"1;x=", itertools.repeat(FILLER)),
    "a body after its refusal": (CHUNKED, itertools.repeat(b"10000\r\n" + FILLER + b"\r\n")),
    "tiny chunks": (CHUNKED, itertools.repeat(b"1\r\nx\r\n" * 10_000)),
}


@pytest.mark.parametrize("what", FLOODS)
def test_what_has_no_end_is_given_up(what: str, port: int) -> None:
    first, rest = FLOODS[what]
    ends = time.monotonic() + 10
    with caller(port) as link, pytest.raises(OSError):
        link.sendall(first)
        sent = 0
        for part in rest:
            link.sendall(part)
            sent += len(part)
            assert time.monotonic() < ends
            if what != "a body after its refusal":  # which nobody keeps
                assert sent < MOST_SENT
    with caller(port) as link:
        link.sendall(HEALTHY)
        assert answer(link) == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        PREDICT,
        HEALTHY + PREDICT,
        PREDICT + b"Content-Length: 9\r\n\r\n",
        PREDICT + b"Content-Length: 9\r\n\r\n12345",
        CHUNKED + b"0\r\nX: ",
        b"GET /healthz HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
    ],
    ids=["nothing", "a head", "a second head", "no body", "half a body", "a trailer", "a GET"],
)
def test_what_stops_halfway_is_given_up(sent: bytes, port: int) -> None:
    with caller(port) as link:
        link.sendall(sent)
        ends = time.monotonic() + 10
        while answer(link):
            assert time.monotonic() < ends


def test_a_long_head_is_refused_with_a_reason(port: int) -> None:
    with caller(port) as link:
        link.sendall(b"GET /healthz HTTP/1.1\r\n")
        time.sleep(0.1)  # so that the rest does not come with the first bytes
        link.sendall(b"X: " + b"x" * HEAD_BYTES)
        assert answer(link) == 431


def test_a_head_and_a_body_of_usual_sizes_are_read(port: int) -> None:
    head = b"Content-Length: 500\r\nX: %s\r\n\r\n" % (b"x" * (HEAD_BYTES // 2))
    with caller(port) as link:
        for _ in range(3):
            link.sendall(PREDICT + head + b" " * 500)
            assert answer(link) == 401  # and the connection stays
    with caller(port) as link:
        link.sendall(CHUNKED + b"1\r\nx\r\n" * 500 + b"0\r\n\r\n")
        assert answer(link) == 401


def test_requests_ahead_of_their_answers_are_few(port: int) -> None:
    with caller(port) as link:
        link.sendall(HEALTHY * MOST_AHEAD)
        came = b""
        while came.count(b"200 OK") < MOST_AHEAD:
            came += (part := link.recv(1 << 16))
            assert part
    with caller(port) as link, contextlib.suppress(ConnectionError):
        link.sendall(HEALTHY * 5000)
        came = b""
        while part := link.recv(1 << 16):
            came += part
        assert came.count(b"200 OK") <= MOST_AHEAD


def test_idle_connections_keep_nobody_out(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "HEAD_SECONDS", 30)
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(caller(port)) for _ in range(3)]
        for each in links[1:]:
            each.sendall(HEALTHY)
            assert answer(each) == 200
        for _ in range(5):
            last = stack.enter_context(caller(port))
            last.sendall(HEALTHY)
            assert answer(last) == 200
