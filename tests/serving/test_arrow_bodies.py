"""Requests and answers as Arrow streams; streams that are no honest request are refused cheaply."""

from __future__ import annotations

import math
import struct
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc

from heterofed.errors import RequestError
from heterofed.hetero_nn.serve.request_queue import Scores
from heterofed.serving import api
from heterofed.serving.arrow_bodies import MEDIA_TYPE, MOST_CELLS, read_arrow, write_arrow
from heterofed.serving.bodies import Asked

ROWS = 10


def stream(table: Any, **options: Any) -> bytes:
    """A table as a stream."""
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema, options=ipc.IpcWriteOptions(**options)) as writer:
        writer.write(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def of(**columns: Any) -> bytes:
    return stream(pa.table({"id": ["a", "b"]} | columns))


def grown(rows: int) -> bytes:
    """A batch that says it has many rows, which its buffers have not."""
    honest = stream(pa.record_batch({"id": ["a", "b"]}))
    changed = honest.replace(struct.pack("<q", 2), struct.pack("<q", rows))
    assert changed != honest
    return changed


def outcome(body: bytes) -> tuple[Asked | None, str]:
    """What is read of a body, and the code of the error."""
    try:
        return read_arrow(body, ROWS), "ok"
    except RequestError as error:
        return None, error.code


PLAIN = of(x=[1.5, None], word=["p", "q"], flag=[True, False], count=[1, 2])


def test_a_request_is_that_of_json() -> None:
    asked = read_arrow(PLAIN, ROWS)
    assert asked.ids == ["a", "b"]
    assert asked.columns == {
        "x": [1.5, None],
        "word": ["p", "q"],
        "flag": [True, False],
        "count": [1, 2],
    }
    assert read_arrow(of(), ROWS).columns is None
    several = pa.Table.from_batches([pa.record_batch({"id": [each]}) for each in "abc"])
    assert read_arrow(stream(several), ROWS).ids == ["a", "b", "c"]
    large = pa.table({"id": pa.array(["a"], pa.large_string())})
    assert read_arrow(bytearray(stream(large)), ROWS).ids == ["a"]


def test_an_answer_has_the_version_beside_its_rows() -> None:
    scores = Scores({"p": [0.5, math.nan]}, ["a+b", "a"], bytes(32))
    table = ipc.open_stream(write_arrow("t", ["x", "y"], scores)).read_all()
    assert table.column_names == ["id", "p", "parties"]
    assert table["parties"].to_pylist() == ["a+b", "a"]
    assert table.schema.metadata == {b"model": b"t", b"version": b"00" * 32}
    empty = ipc.open_stream(write_arrow("t", [], Scores({}, [], bytes(32), []))).read_all()
    assert len(empty) == 0


HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "invalid"),
    "no stream": (b"{}" * 50, "invalid"),
    "a long header": (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100), "invalid"),
    "only a schema": (stream(pa.table({"id": pa.array([], pa.string())})), "invalid"),
    "no ids": (stream(pa.table({"x": [1]})), "invalid"),
    "numbers as ids": (stream(pa.table({"id": [1, 2]})), "invalid"),
    "a null id": (stream(pa.table({"id": ["a", None]})), "invalid"),
    "an empty id": (stream(pa.table({"id": ["a", ""]})), "invalid"),
    "a long id": (stream(pa.table({"id": ["x" * 5000]})), "invalid"),
    "a nested column": (of(x=[[1], [2]]), "invalid"),
    "a column of nothing": (of(x=pa.nulls(2)), "invalid"),
    "times": (of(x=pa.array([1, 2], pa.timestamp("s"))), "invalid"),
    "bytes": (of(x=[b"a", b"b"]), "invalid"),
    "a dictionary": (of(x=pa.array(["p", "q"]).dictionary_encode()), "invalid"),
    "runs": (of(x=pa.RunEndEncodedArray.from_arrays([2], [1])), "invalid"),
    "one name twice": (
        stream(pa.table([["a"], [1], [2]], names=["id", "x", "x"])),
        "invalid",
    ),
    "compressed by lz4": (stream(pa.table({"id": ["a"] * 9}), compression="lz4"), "invalid"),
    "compressed by zstd": (stream(pa.table({"id": ["a"] * 9}), compression="zstd"), "invalid"),
    "many rows": (stream(pa.table({"id": ["a"] * 11})), "too_large"),
    "more rows than bytes": (grown(9), "invalid"),
    "far more rows than bytes": (grown(2**40), "invalid"),
    "fewer rows than none": (grown(-1), "invalid"),
}


@pytest.mark.parametrize(("body", "code"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_streams(body: bytes, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_arrow(body, ROWS)
    assert caught.value.code == code
    assert "xxx" not in str(caught.value)


def test_wide_requests_are_counted_before_objects_are_made() -> None:
    columns: dict[str, Any] = {f"x{at}": pa.array([True] * 10_000) for at in range(500)}
    body = stream(pa.table({"id": ["a"] * 10_000} | columns))
    assert 501 * 10_000 > MOST_CELLS > len(body)
    with pytest.raises(RequestError, match="values at most"):
        read_arrow(body, 100_000)


def test_a_stream_that_breaks_off_is_refused_or_a_request() -> None:
    for end in range(len(PLAIN)):
        asked, code = outcome(PLAIN[:end])
        # Only the mark of the end may be missing.
        assert code == "invalid" or (asked is not None and asked.ids == ["a", "b"])


def test_any_changed_byte_is_refused_or_a_request() -> None:
    for at in range(len(PLAIN)):
        for bits in (0x01, 0x80, 0xFF):
            body = bytearray(PLAIN)
            body[at] ^= bits
            asked, code = outcome(bytes(body))
            assert code in ("ok", "invalid", "too_large")
            assert all(isinstance(each, str) for each in (asked.ids if asked else []))
            assert asked is None or len(asked.ids) <= ROWS


@pytest.mark.parametrize(
    ("sent", "wished", "forms"),
    [
        ("", "", (False, False)),
        ("application/json", "*/*", (False, False)),
        ("application/json", MEDIA_TYPE, (False, True)),
        (MEDIA_TYPE, "", (True, True)),
        (f"{MEDIA_TYPE.upper()}; x=y", "*/*", (True, True)),
        (MEDIA_TYPE, "application/json", (True, False)),
        (MEDIA_TYPE, f"application/json, {MEDIA_TYPE}", (True, True)),
    ],
)
def test_headers_choose_the_form(
    sent: str, wished: str, forms: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = [(b"content-type", sent.encode()), (b"accept", wished.encode())]
    assert api._forms({"headers": headers}) == forms
    monkeypatch.setattr(api, "is_installed", lambda: False)
    if any(forms):
        with pytest.raises(RequestError, match=r"heterofed\[parquet"):
            api._forms({"headers": headers})
