"""The application alone: bodies that come too slowly, and answers that never come."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

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


def test_a_caller_sees_the_metrics_of_its_models_only() -> None:
    pytest.importorskip("prometheus_client")
    tokens = {"loans": "token-of-the-bank", "fraud": "token-of-the-police"}
    served = Api(tokens, deadline=1, most_bytes=1000, most_rows=10)

    async def metrics(token: str) -> httpx.Response:
        there = httpx.ASGITransport(app=served)
        async with httpx.AsyncClient(transport=there, base_url="http://x") as caller:
            return await caller.get("/metrics", headers={"authorization": f"Bearer {token}"})

    for task, token in tokens.items():
        text = asyncio.run(metrics(token)).text
        assert [each for each in tokens if f'model="{each}"' in text] == [task]
    assert asyncio.run(metrics("another")).status_code == 401
