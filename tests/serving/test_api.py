"""The application alone: bodies that come too slowly, and answers that never come."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from heterofed.serving.api import Api

TOKEN = "a-token-of-some-length"


def answered(api: Api, *parts: bytes, pause: float = 0.0) -> tuple[int, dict[str, Any]]:
    """What the application answers to a body that comes in parts."""
    came: list[Any] = []
    rest = list(parts)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest)}

    async def send(message: Any) -> None:
        came.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/models/t:predict",
        "headers": [(b"authorization", f"Bearer {TOKEN}".encode())],
    }
    asyncio.run(api(scope, receive, send))
    return came[0]["status"], json.loads(came[1]["body"])["error"]


def api(deadline: float = 0.3) -> Api:
    return Api({"t": TOKEN}, deadline=deadline, most_bytes=1000, most_rows=10)


def test_a_slow_body_is_given_up_at_the_deadline() -> None:
    began = time.monotonic()
    status, error = answered(api(), *[b" "] * 100, pause=0.05)
    assert (status, error["code"]) == (408, "too_slow")
    assert time.monotonic() - began < 3


def test_a_body_of_many_parts_is_measured() -> None:
    assert answered(api(20), *[b" " * 300] * 5)[0] == 413


def test_requests_are_answered_while_there_is_no_link() -> None:
    status, error = answered(api(20), b'{"ids": ["a"]}')
    assert (status, error["code"], error["retry_after"]) == (503, "unavailable", 2)


def test_nobody_waits_longer_than_the_deadline() -> None:
    served = api()
    served.queues["t"].open(bytes(32))
    status, error = answered(served, b'{"ids": ["a"]}')
    assert (status, error["code"]) == (504, "deadline")
    taken = served.queues["t"].take(10, 0)
    assert taken == []  # its deadline has passed


def test_the_error_of_a_request_has_no_id() -> None:
    served = api()
    served.queues["t"].open(bytes(32))
    assert "secret-id" not in json.dumps(answered(served, b'{"ids": ["secret-id"]}')[1])
