"""The HTTP application of served models.

A request passes through as few calls as possible: the path of predictions is not routed, and no
thread changes between a request and its answer but once per batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from asyncio import AbstractEventLoop, Future
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from heterofed.errors import RequestError
from heterofed.hetero_nn.serve.request_queue import (
    Outcome,
    Request,
    RequestQueue,
    Scores,
    too_late,
    unavailable,
)
from heterofed.serving.arrow_bodies import MEDIA_TYPE, is_installed, read_arrow, write_arrow
from heterofed.serving.bodies import STATUSES, Asked, read_request, write_answer, write_error
from heterofed.serving.metrics import Metrics
from heterofed.serving.openapi import description

JSON_HEADER = (b"content-type", b"application/json")
ARROW_HEADER = (b"content-type", MEDIA_TYPE.encode())
NO_STORE = (b"cache-control", b"no-store")


class Model:
    """One model of the application.

    Args:
        task: the id of the task, which is the name of the model.
        token: the bearer token that its callers must have; empty for those with a certificate.
        queue: the requests that wait for the thread of its links.
        metrics: the metrics of the server.
    """

    def __init__(self, task: str, token: str, queue: RequestQueue, metrics: Metrics) -> None:
        self.task, self.queue = task, queue
        self._bearer = f"Bearer {token}".encode() if token else b""
        self.note = metrics.of(task, lambda: bool(queue.version), lambda: queue.rows_waiting)

    @property
    def path(self) -> str:
        """The path of its predictions."""
        return f"/v1/models/{self.task}:predict"

    def check_token(self, scope: Scope) -> None:
        """Check that a caller has the token.

        Raises:
            RequestError: it has not.
        """
        if self._bearer and not hmac.compare_digest(_header(scope, b"authorization"), self._bearer):
            raise RequestError("give the token: Authorization: Bearer ...", code="unauthorized")


class Api:
    """The application of one model or several.

    Args:
        tokens: the bearer token of each model, by the id of its task.
        deadline: the longest time in seconds from a request to its answer.
        most_bytes: the most bytes of a body.
        most_rows: the most ids of a request.

    Attributes:
        queues: the requests of each model that wait for the thread of its links, by its task.
    """

    def __init__(
        self, tokens: Mapping[str, str], *, deadline: float, most_bytes: int, most_rows: int
    ) -> None:
        self._deadline, self._most_bytes, self._most_rows = deadline, most_bytes, most_rows
        self._loop: AbstractEventLoop | None = None
        self._metrics = Metrics()
        self.queues = {task: RequestQueue(self._deliver) for task in tokens}
        models = [
            Model(task, token, self.queues[task], self._metrics) for task, token in tokens.items()
        ]
        self._models = {each.path: each for each in models}
        self._others = Starlette(
            routes=[
                Route("/healthz", self._healthy),
                Route("/readyz", self._ready),
                Route("/metrics", self._measured),
                Route("/openapi.json", self._described),
            ],
            exception_handlers={404: self._not_found},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        model = self._models.get(scope["path"])
        if model is None:
            await self._others(scope, receive, send)
            return
        if scope["method"] != "POST":
            await PlainTextResponse("use POST\n", 405)(scope, receive, send)
            return
        began, rows, code = time.monotonic(), 0, "ok"
        try:
            model.check_token(scope)
            body = await self._body(scope, receive)
            sends, takes = _forms(scope)
            asked = (read_arrow if sends else read_request)(body, self._most_rows)
            rows = len(asked.ids)
            scores = await self._scores(model, asked, began + self._deadline)
            write, form = (write_arrow, ARROW_HEADER) if takes else (write_answer, JSON_HEADER)
            answer, status = write(model.task, asked.ids, scores), 200
            headers = [form, NO_STORE]
        except RequestError as error:
            code, answer, status = error.code, write_error(error), STATUSES[error.code]
            headers = [JSON_HEADER, NO_STORE, *_of_error(error, status)]
        headers.append((b"content-length", str(len(answer)).encode()))
        model.note(code, rows, time.monotonic() - began)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    # -- predictions -------------------------------------------------------------------------

    async def _scores(self, model: Model, asked: Asked, ends: float) -> Scores:
        loop = asyncio.get_running_loop()
        self._loop = loop
        future: Future[Scores] = loop.create_future()
        timer = loop.call_later(ends - time.monotonic(), _expire, future)
        try:
            model.queue.put(Request(asked.ids, ends, asked.columns, future))
            return await future
        finally:
            timer.cancel()

    def _deliver(self, outcomes: list[Outcome]) -> None:
        """Hand outcomes from the thread of the link to the loop of the server."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the server has ended, and its callers too
                self._loop.call_soon_threadsafe(_settle, outcomes)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | bytearray:
        """Return the body, which must be small and come in time."""
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > self._most_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._deadline):
                return await self._read(receive)
        except TimeoutError:
            raise RequestError("the body came too slowly", code="too_slow") from None

    async def _read(self, receive: Receive) -> bytes | bytearray:
        message = await receive()
        body = message.get("body", b"")
        if not message.get("more_body"):
            if len(body) > self._most_bytes:
                raise self._too_large()
            return body  # type: ignore[no-any-return]
        parts = bytearray(body)
        while message.get("more_body"):
            message = await receive()
            parts += message.get("body", b"")
            if len(parts) > self._most_bytes:
                raise self._too_large()
        return parts

    def _too_large(self) -> RequestError:
        return RequestError(f"send at most {self._most_bytes} bytes at once", code="too_large")

    # -- the rest ----------------------------------------------------------------------------

    async def _not_found(self, _request: HttpRequest, _error: Exception) -> Response:
        paths = ", ".join(self._models)
        error = RequestError(f"nothing is here; ask {paths}", code="not_found")
        return Response(write_error(error), 404, media_type="application/json")

    async def _healthy(self, _request: HttpRequest) -> Response:
        return PlainTextResponse("ok\n")

    async def _ready(self, _request: HttpRequest) -> Response:
        versions = {task: queue.version.hex() for task, queue in self.queues.items()}
        if not all(versions.values()):
            error = unavailable()
            return Response(write_error(error), 503, {"retry-after": str(error.retry_after)})
        (task, version), *more = versions.items()
        alone = {} if more else {"model": task, "version": version}
        return JSONResponse(alone | {"models": versions})

    async def _measured(self, request: HttpRequest) -> Response:
        refusals = {each.task: self._refusal(each, request.scope) for each in self._models.values()}
        if all(refusals.values()):
            return Response(next(iter(refusals.values())), 401, media_type="application/json")
        text = self._metrics.text([task for task, refusal in refusals.items() if not refusal])
        if text is None:
            return PlainTextResponse("install heterofed[prometheus] for metrics\n", 404)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def _described(self, _request: HttpRequest) -> Response:
        return JSONResponse(description(list(self.queues)))

    def _refusal(self, model: Model, scope: Scope) -> bytes:
        """Return the body of the error for a caller without the token; empty if it has it."""
        try:
            model.check_token(scope)
        except RequestError as error:
            return write_error(error)
        return b""


def _settle(outcomes: list[Outcome]) -> None:
    for request, outcome in outcomes:
        future: Future[Scores] = request.caller
        if future.done():
            continue
        if isinstance(outcome, Scores):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)


def _expire(future: Future[Scores]) -> None:
    if not future.done():
        future.set_exception(too_late())


def _header(scope: Scope, name: bytes) -> bytes:
    found: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return found


def _forms(scope: Scope) -> tuple[bool, bool]:
    """Return whether a caller sends an Arrow stream, and whether it is to get one.

    Without a wish it gets what it sent.

    Raises:
        RequestError: it wants Arrow, and the library is not installed.
    """
    sent = _header(scope, b"content-type").partition(b";")[0].strip().lower()
    wished = _header(scope, b"accept").lower()
    sends = sent == ARROW_HEADER[1]
    takes = ARROW_HEADER[1] in wished or (sends and b"application/json" not in wished)
    if (sends or takes) and not is_installed():
        raise RequestError(
            "this server reads no Arrow: send JSON, or have heterofed[parquet] installed there",
            code="unsupported",
        )
    return sends, takes


def _of_error(error: RequestError, status: int) -> list[tuple[bytes, bytes]]:
    headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    return headers
