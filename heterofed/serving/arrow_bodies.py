"""Reads and writes the bodies of large requests as Arrow streams; it knows no server.

A stream says by itself how long, how deep and how compressed it is, and none of that is believed.
Its columns have plain types, its buffers are not compressed (a few bytes could stand for all of the
memory), and its rows and cells are counted before any Python object is made of them.
"""

from __future__ import annotations

import functools
import importlib.util
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from heterofed.errors import RequestError
from heterofed.hetero_nn.serve.request_queue import Scores
from heterofed.serving.bodies import MOST_COLUMNS, MOST_ID, Asked

MEDIA_TYPE = "application/vnd.apache.arrow.stream"

ID = "id"
"""The name of the column of ids."""

MOST_CELLS = 4_000_000
"""The most values of a request, of which each takes up to a hundred bytes as an object."""

HEADER, COMPRESSION = 2, 3
"""The numbers of these fields in the tables `Message` and `RecordBatch` of the format."""


@functools.cache
def is_installed() -> bool:
    """Return whether the library is there, which is loaded only for a request that needs it."""
    return importlib.util.find_spec("pyarrow") is not None


def read_arrow(body: bytes | bytearray, most_rows: int) -> Asked:
    """Return the request of a body: a column `id`, and perhaps own columns of the Host.

    Raises:
        RequestError: the body is no such request; the message quotes nothing of it.
    """
    import pyarrow

    ids: list[Any] = []
    columns: dict[str, list[Any]] = {}
    try:
        for batch in _batches(body, most_rows):
            ids += batch.column(ID).to_pylist()
            for name in batch.schema.names:
                if name != ID:
                    columns.setdefault(name, []).extend(batch.column(name).to_pylist())
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, struct.error):
        raise _invalid("the body is no whole Arrow stream") from None
    if not ids or not all(each and len(each) <= MOST_ID for each in ids):
        raise _invalid(f"each row needs an id of 1 to {MOST_ID} characters")
    return Asked(ids, columns or None)


def write_arrow(task: str, ids: Sequence[str], scores: Scores) -> bytes:
    """Return the body of an answer: the ids, the predictions and the parties as columns; the model
    and its version are metadata of the schema.
    """
    import pyarrow

    columns: dict[str, Any] = {ID: list(ids), **scores.columns, "parties": scores.parties}
    table = pyarrow.table(columns).replace_schema_metadata(
        {"model": task, "version": scores.version.hex()}
    )
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _batches(body: bytes | bytearray, most_rows: int) -> Iterator[Any]:
    """Yield the batches of a stream, each checked as a whole."""
    from pyarrow import ipc, py_buffer

    messages = iter(ipc.MessageReader.open_stream(py_buffer(body)))
    if (first := next(messages, None)) is None:
        raise _invalid("the body is empty")
    schema = ipc.read_schema(first)
    _check_schema(schema)
    rows, width = 0, len(schema)
    for message in messages:
        if message.type != "record batch" or _is_compressed(bytes(message.metadata)):
            raise _invalid("send plain record batches, not compressed and without dictionaries")
        batch = ipc.read_record_batch(message, schema)
        rows += batch.num_rows
        if rows > most_rows:
            raise RequestError(f"send {most_rows} ids at most at once", code="too_large")
        if rows * width > MOST_CELLS:
            raise RequestError(f"send {MOST_CELLS} values at most at once", code="too_large")
        batch.validate(full=True)
        yield batch


def _check_schema(schema: Any) -> None:
    """Check that a schema has an id, and values that JSON could have too."""
    from pyarrow import types

    if len(schema) > MOST_COLUMNS or len(set(schema.names)) < len(schema):
        raise _invalid(f"give each column a name of its own, and {MOST_COLUMNS} columns at most")
    texts = (types.is_string, types.is_large_string)
    plain = (*texts, types.is_boolean, types.is_integer, types.is_floating)
    for field in schema:
        if not any(is_one(field.type) for is_one in (texts if field.name == ID else plain)):
            raise _invalid(
                "columns hold text, numbers or booleans, and that of the ids text; write dates as"
                " text, and categories as their words"
            )
    if ID not in schema.names:
        raise _invalid(f"the ids are missing: name their column {ID!r}")


def _is_compressed(metadata: bytes) -> bool:
    """Return whether the header of a record batch names a compression.

    The format is that of FlatBuffers, which PyArrow has verified but whose field it does not show.
    """
    (root,) = struct.unpack_from("<I", metadata)
    place = root + _field(metadata, root, HEADER)
    (step,) = struct.unpack_from("<I", metadata, place)
    return _field(metadata, place + step, COMPRESSION) > 0


def _field(metadata: bytes, table: int, number: int) -> int:
    """Return where a field of a table is, counted from the table; 0 if it is not there."""
    fields = table - struct.unpack_from("<i", metadata, table)[0]
    (size,) = struct.unpack_from("<H", metadata, fields)
    at = 4 + 2 * number
    found: int = struct.unpack_from("<H", metadata, fields + at)[0] if at < size else 0
    return found


def _invalid(why: str) -> RequestError:
    return RequestError(f"{why}; see /openapi.json", code="invalid")
