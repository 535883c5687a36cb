"""The first frames of a connection: they name its link and the frames that each side has."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

from heterofed.errors import LinkError
from heterofed.transport.base import Buffer

TOKEN_BYTES = 16

_VERSION = 1
_HELLO = struct.Struct(f">cB{TOKEN_BYTES}s?QQ")
_REFUSAL = struct.Struct(">cc")


class Refusal(Enum):
    """Why a listening side refuses a link."""

    UNKNOWN = b"u"
    """The listening side does not know the link: it was restarted, or has given the link up."""

    FULL = b"f"
    """The listening side has as many links as it keeps."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of a connection.

    Attributes:
        token: the random secret that identifies the link and proves the right to continue it.
        resumes: whether the listening side has confirmed the link before.
        received: the number of the last frame that the connecting side has received.
        took: the number of the last frame that its caller has taken.
    """

    token: bytes
    resumes: bool
    received: int
    took: int

    def encode(self) -> bytes:
        """Return the frame on the wire."""
        return _HELLO.pack(b"h", _VERSION, self.token, self.resumes, self.received, self.took)

    @staticmethod
    def decode(frame: Buffer) -> Hello:
        """Decode a Hello.

        Raises:
            LinkError: the frame is not a Hello.
        """
        if len(frame) != _HELLO.size:
            raise LinkError("a connection does not begin with a Hello of the link")
        kind, version, token, resumes, received, took = _HELLO.unpack(frame)
        if (kind, version) != (b"h", _VERSION):
            raise LinkError("a connection does not begin with a Hello of the link")
        return Hello(token, resumes, received, took)


def encode_refusal(refusal: Refusal) -> bytes:
    """Return the frame on the wire."""
    return _REFUSAL.pack(b"x", refusal.value)


def decode_refusal(frame: Buffer) -> Refusal:
    """Decode a refusal.

    Raises:
        LinkError: the frame is not a refusal.
    """
    try:
        return Refusal(_REFUSAL.unpack(frame)[1])
    except (struct.error, ValueError):
        raise LinkError("the peer refused the link for an unknown reason") from None
