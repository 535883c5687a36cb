"""Reads the bodies of requests and writes those of answers, as JSON; it knows no server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from heterofed.errors import RequestError
from heterofed.hetero_nn.serve.request_queue import Scores

MOST_COLUMNS = 10_000
"""The most own columns of a request."""

STATUSES = {
    "invalid": 400,
    "unauthorized": 401,
    "not_found": 404,
    "unknown_ids": 404,
    "too_slow": 408,
    "too_large": 413,
    "unsupported": 415,
    "limit": 429,
    "busy": 429,
    "failed": 500,
    "other_version": 503,
    "unavailable": 503,
    "deadline": 504,
    "late": 504,
}
"""The HTTP status of each code of an error."""

MOST_ID = 4096
"""The most characters of an id."""

Id = Annotated[str, Meta(min_length=1, max_length=MOST_ID)]
Cell = str | int | float | bool | None


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request.

    Attributes:
        ids: the ids of the rows.
        columns: the Host's own columns of these rows as they are now, by name; None reads them from
            its table.
    """

    ids: Annotated[list[Id], Meta(min_length=1)]
    columns: Annotated[dict[str, list[Cell]], Meta(max_length=MOST_COLUMNS)] | None = None


_decoder = msgspec.json.Decoder(Asked)
_encoder = msgspec.json.Encoder()


def read_request(body: bytes | bytearray, most_rows: int) -> Asked:
    """Return the request of a body.

    Raises:
        RequestError: the body is no such request; the message quotes nothing of it.
    """
    try:
        asked = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise RequestError(
            'the body is no request; send {"ids": ["..."]} as JSON, see /openapi.json',
            code="invalid",
        ) from None
    rows = len(asked.ids)
    if rows > most_rows:
        raise RequestError(f"{rows} ids; send {most_rows} at most at once", code="too_large")
    if asked.columns is not None and any(len(each) != rows for each in asked.columns.values()):
        raise RequestError("give one value per id in each column", code="invalid")
    return asked


def write_answer(task: str, ids: Sequence[str], scores: Scores) -> bytes:
    """Return the body of an answer."""
    return _encoder.encode(
        {
            "model": task,
            "version": scores.version.hex(),
            "ids": ids,
            "predictions": scores.columns,
            "parties": scores.parties,
        }
    )


def write_error(error: RequestError) -> bytes:
    """Return the body of an error."""
    told: dict[str, Any] = {"code": error.code, "message": str(error)}
    if error.retry_after is not None:
        told["retry_after"] = error.retry_after
    return _encoder.encode({"error": told})
