"""The lines of a receipt: a hash chain, in which each line has the hash of the line before it.

A line is a JSON object with sorted keys and without spaces, in UTF-8, and ends with a newline. Its
hash is the SHA-256 of its bytes without the newline.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from heterofed.errors import ConfigError

FORMAT = 1

BEGINNING = "0" * 64
"""The hash that stands in the first line, which has no line before it."""

MOST_BYTES = 1 << 20
"""The longest line that is read."""

What = Literal[
    "began",
    "terms",
    "split",
    "round",
    "resumed",
    "ended",
    "stopped",
    "said",
    "heard",
    "unheard",
    "sealed",
]

Hash = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Signature = Annotated[str, Meta(pattern=r"\A[0-9a-f]{128}\Z")]


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line of a receipt.

    Attributes:
        n: the number of the line, from 0.
        prev: the hash of the line before it.
        what: the kind of the line.
        body: the content, by name.
    """

    n: Annotated[int, Meta(ge=0, le=2**40)]
    prev: Hash
    what: What
    body: dict[str, Any]


class Chain:
    """The lines of a receipt, to which more can be added.

    Args:
        content: the bytes of the receipt so far.

    Attributes:
        lines: the lines.
        raw: the bytes of each line without its newline.

    Raises:
        ConfigError: these are not whole lines of which each follows from the one before it.
    """

    def __init__(self, content: bytes = b"") -> None:
        self.raw = content[:-1].split(b"\n") if content else []
        if content[-1:] not in (b"", b"\n"):
            raise changed("it does not end with a whole line, so something was cut off")
        self.lines: list[Line] = []
        head = BEGINNING
        for number, raw in enumerate(self.raw):
            line = _decoded(number, raw)
            if (line.n, line.prev) != (number, head):
                raise changed(
                    f"line {number} does not follow from the line before it, so a line was"
                    " changed, added, removed or moved"
                )
            self.lines.append(line)
            head = hash_of(raw)

    @property
    def head(self) -> str:
        """The hash of the last line."""
        return hash_of(self.raw[-1]) if self.raw else BEGINNING

    def add(self, what: What, **body: Any) -> bytes:
        """Append a line, and return its bytes with the newline."""
        line = Line(len(self.raw), self.head, what, _plain(body))
        self.lines.append(line)
        self.raw.append(encoded(line))
        return self.raw[-1] + b"\n"

    def last(self, *kinds: What) -> What | None:
        """Return the kind of the last line of one of these kinds, or None if there is none."""
        return next((each.what for each in reversed(self.lines) if each.what in kinds), None)


def encoded(value: object) -> bytes:
    """Return a value as JSON with sorted keys and without spaces."""
    return msgspec.json.encode(value, order="sorted")


def hash_of(line: bytes) -> str:
    """Return the hash of a line without its newline, 64 hexadecimal digits."""
    return hashlib.sha256(line).hexdigest()


def changed(why: str) -> ConfigError:
    """Return the error for a receipt that is not as its party wrote it."""
    return ConfigError(
        f"this is no receipt, or not as its party wrote it: {why}; ask that party for the file"
        " itself, and rely on nothing in this one"
    )


def _decoded(number: int, raw: bytes) -> Line:
    if len(raw) > MOST_BYTES:
        raise changed(f"line {number} is longer than {MOST_BYTES} bytes")
    try:
        return msgspec.json.decode(raw, type=Line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise changed(f"line {number} cannot be read") from None


def _plain(value: Any) -> Any:
    """Return a value with infinite numbers and NaN as text, because JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
