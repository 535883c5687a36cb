"""How connections of a link begin: which link it is, and who has what of it. See `reliable`."""

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
    """Why a listening side has no Welcome."""

    UNKNOWN = b"u"
    """It does not know the link: it was restarted, or has given it up."""

    FULL = b"f"
    """It keeps no further link."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of a connection.

    Attributes:
        token: names the link, and proves who may go on with it.
        resumes: the listening side has shown that it knows the link.
        received: the last frame that the connecting side has.
        took: the last frame that its caller took.
    """

    token: bytes
    resumes: bool
    received: int
    took: int

    def encode(self) -> bytes:
        """What stands on the wire."""
        return _HELLO.pack(b"h", _VERSION, self.token, self.resumes, self.received, self.took)

    @staticmethod
    def decode(frame: Buffer) -> Hello:
        """Read a Hello.

        Raises:
            LinkError: it is none.
        """
        if len(frame) != _HELLO.size:
            raise LinkError("a connection does not begin with a Hello of the link")
        kind, version, token, resumes, received, took = _HELLO.unpack(frame)
        if (kind, version) != (b"h", _VERSION):
            raise LinkError("a connection does not begin with a Hello of the link")
        return Hello(token, resumes, received, took)


def encode_refusal(refusal: Refusal) -> bytes:
    """What stands on the wire."""
    return _REFUSAL.pack(b"x", refusal.value)


def decode_refusal(frame: Buffer) -> Refusal:
    """Read a refusal.

    Raises:
        LinkError: it is none.
    """
    try:
        return Refusal(_REFUSAL.unpack(frame)[1])
    except (struct.error, ValueError):
        raise LinkError("the peer refused the link for no known reason") from None
