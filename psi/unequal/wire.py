"""Defines the first message of a request, and the limits of the others.

The asker sends "PSU1", the name of the set whose filter it has (8 bytes), and its number of ids
(4 bytes, big-endian). A chunk of blinded elements has up to `MAX_VALUES` of 32 bytes; its answer
has as many, and a proof of 64 bytes. A chunk of proofs has up to `MAX_VALUES` of 16 bytes; its
answer has as many replies, and `UNKNOWN` for a proof of no id.
"""

from __future__ import annotations

from psi.errors import CountError
from psi.unequal.outputs import PART

MAX_VALUES = 4096
UNKNOWN = bytes(PART)

_MAGIC = b"PSU1"
_NAME, _COUNT = 8, 4


def write_hello(name: str, count: int) -> bytes:
    """Return the first message of a request."""
    return _MAGIC + bytes.fromhex(name) + count.to_bytes(_COUNT, "big")


def read_hello(hello: bytes) -> tuple[str, int]:
    """Return the name of the set and the number of ids.

    Raises:
        CountError: the message is malformed.
    """
    if len(hello) != len(_MAGIC) + _NAME + _COUNT or not hello.startswith(_MAGIC):
        raise CountError("the first message is none of this protocol version")
    return hello[len(_MAGIC) : -_COUNT].hex(), int.from_bytes(hello[-_COUNT:], "big")
