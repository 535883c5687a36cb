"""Joins strings of bytes into one and cuts them again; it knows nothing of their content."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise

_NUMBER = 8


def pack(parts: Sequence[bytes]) -> bytes:
    """Return the number of parts, the length of each (8 bytes, little-endian), and the parts."""
    count = len(parts)
    return struct.pack(f"<{1 + count}Q", count, *map(len, parts)) + b"".join(parts)


def unpack(data: bytes) -> list[bytes]:
    """Return the parts that `pack` joined.

    Raises:
        ValueError: the data is no result of `pack`.
    """
    count = int.from_bytes(data[:_NUMBER], "little")
    head = _NUMBER * (1 + count)
    if len(data) < max(head, _NUMBER):
        raise ValueError("packed parts are cut off")
    lengths = struct.unpack_from(f"<{count}Q", data, _NUMBER)
    if head + sum(lengths) != len(data):
        raise ValueError("packed parts have another length than they say")
    return [data[a:b] for a, b in pairwise(accumulate(lengths, initial=head))]
