"""What callers send is checked before anything is done; answers have what they need."""

from __future__ import annotations

import json
import math

import pytest

from heterofed.errors import RequestError
from heterofed.hetero_nn.serve.request_queue import Outcome, Request, RequestQueue, Scores
from heterofed.serving.bodies import STATUSES, read_request, write_answer, write_error
from heterofed.serving.openapi import description
from tests.e2e.processes import ROOT

BAD = {
    "no JSON": (b"{", "invalid"),
    "nothing": (b"", "invalid"),
    "no object": (b"[1]", "invalid"),
    "no ids": (b'{"ids": []}', "invalid"),
    "an empty id": (b'{"ids": [""]}', "invalid"),
    "a number": (b'{"ids": [7]}', "invalid"),
    "a long id": (b'{"ids": ["' + b"x" * 5000 + b'"]}', "invalid"),
    "another field": (b'{"ids": ["a"], "more": 1}', "invalid"),
    "no text": (b'{"ids": ["\xff"]}', "invalid"),
    "deep": (b'{"ids": ' + b"[" * 100_000, "invalid"),
    "a short column": (b'{"ids": ["a", "b"], "columns": {"x": [1]}}', "invalid"),
    "a nested column": (b'{"ids": ["a"], "columns": {"x": [[1]]}}', "invalid"),
    "many": (json.dumps({"ids": ["a"] * 11}).encode(), "too_large"),
}


@pytest.mark.parametrize(("body", "code"), BAD.values(), ids=BAD.keys())
def test_bad_bodies(body: bytes, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_request(body, 10)
    assert caught.value.code == code
    assert "xxx" not in str(caught.value)


def test_answers_and_errors() -> None:
    scores = Scores({"p": [0.5, math.nan]}, ["a+b", "a"], bytes(32))
    assert json.loads(write_answer("t", ["x", "y"], scores)) == {
        "model": "t",
        "version": "00" * 32,
        "ids": ["x", "y"],
        "predictions": {"p": [0.5, None]},
        "parties": ["a+b", "a"],
    }
    error = RequestError("why", code="limit", retry_after=7)
    told = {"code": "limit", "message": "why", "retry_after": 7}
    assert json.loads(write_error(error)) == {"error": told}


def test_the_description_names_every_status() -> None:
    (path,) = [each for each in description("t")["paths"] if "predict" in each]
    responses = description("t")["paths"][path]["post"]["responses"]
    assert set(responses) == {"200", *map(str, STATUSES.values())}


def test_the_guide_says_what_to_do_about_every_code() -> None:
    page = (ROOT / "docs/how-to/serve.md").read_text(encoding="utf-8")
    told = {code for code in STATUSES if f"`{code}`" in page}
    assert set(STATUSES) - told == set()


def test_requests_gather_and_too_many_are_told_to_come_again() -> None:
    settled: list[Outcome] = []
    queue = RequestQueue(settled.extend, most_waiting=5)

    def of(*ids: str, ends: float = math.inf) -> Request:
        return Request(ids, ends)

    with pytest.raises(RequestError, match="link"):
        queue.put(of("a"))
    queue.open(bytes(32))
    first, late, second = of("a", "b"), of("c", ends=0), of("d")
    for each in (first, late, second):
        queue.put(each)
    with pytest.raises(RequestError) as caught:
        queue.put(of("e", "f"))
    assert (caught.value.code, caught.value.retry_after) == ("busy", 1)
    assert queue.take(3, 0) == [first]
    assert [request for request, _ in settled] == [late]
    assert queue.rows_waiting == 1
    queue.close()
    assert len(settled) == 2
    assert queue.take(3, 0) == []
    queue.open(bytes(32))
    queue.put(of(*"abcdefgh"))  # more than may wait, and alone
    assert len(queue.take(3, 0)) == 1
