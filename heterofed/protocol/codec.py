"""Encodes messages as frames and decodes them; no other module knows the format.

A message is a byte stream that is cut into frames of at most 1 MiB:

    offset  size  what
    0       2     "HF"
    2       1     format version, 1
    3       1     0 (reserved)
    4       4     length of the header, little-endian, at most 256 KiB
    8       8     length of the payload, little-endian
    16            header: the message as MessagePack (an array that starts with its name)
                  payload: raw bytes (blinded values; tensors one after another, row-major,
                  little-endian)

Every message starts a new frame, and all of its frames but the last are full. The receiver decodes
and checks the header before it allocates memory for the payload.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from heterofed.errors import LocalProtocolError, RemoteProtocolError
from heterofed.protocol.limits import MAX_FRAME_BYTES, MAX_HEADER_BYTES
from heterofed.protocol.messages import AnyMessage, Message

_PREFIX = struct.Struct("<2sBBIQ")
_MAGIC = b"HF"
_VERSION = 1

Buffer = bytes | bytearray | memoryview

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyMessage)
_MALFORMED = (msgspec.MsgspecError, RecursionError, ValueError, OverflowError)


def encode(message: Message, payload: Sequence[Buffer] = ()) -> list[Buffer]:
    """Cut a message into frames.

    Args:
        message: the message, which becomes the header.
        payload: C-contiguous buffers that follow the header. Large ones are not copied, so they
            must not change before the frames were sent.

    Returns:
        Frames of 1 byte to 1 MiB.

    Raises:
        LocalProtocolError: a field is out of the range of its type, so the peer would refuse the
            message. (Structs check this when they are decoded, not when they are built.)
    """
    try:
        header = _encoder.encode(message)
        _decoder.decode(header)
    except _MALFORMED as why:
        raise LocalProtocolError(f"{type(message).__name__} cannot be sent: {why}") from why
    return framed(header, payload)


def framed(header: Buffer, payload: Sequence[Buffer] = ()) -> list[Buffer]:
    """Cut a message into frames, as `encode` does, whose header is encoded already."""
    views = [memoryview(part).cast("B") for part in payload if memoryview(part).nbytes]
    size = sum(len(view) for view in views)
    start = b"".join((_PREFIX.pack(_MAGIC, _VERSION, 0, len(header), size), header))
    if len(start) + size < MAX_FRAME_BYTES:
        return [b"".join((start, *views))]
    return list(_frames([memoryview(start), *views]))


def header_in(frame: Buffer) -> memoryview:
    """Return the header in the first frame of a message that `encode` has made."""
    view = memoryview(frame).cast("B")
    size: int = _PREFIX.unpack_from(view)[3]
    return view[_PREFIX.size : _PREFIX.size + size]


def read_header(header: Buffer) -> Message:
    """Return the message of a header that was checked before.

    Raises:
        RemoteProtocolError: it is no message of this version of the protocol.
    """
    try:
        message: Message = _decoder.decode(header)
    except _MALFORMED:
        # The text of the error may quote what the peer sent.
        raise RemoteProtocolError("a header that is not a message of this protocol") from None
    return message


def payload_size(payload: Sequence[Buffer]) -> int:
    """Return the number of bytes of a payload."""
    return sum([memoryview(part).nbytes for part in payload])


def _frames(views: Iterable[memoryview]) -> Iterator[Buffer]:
    """Yield full frames and a last shorter one; a frame within one buffer is a slice of it."""
    parts: list[memoryview] = []
    room = MAX_FRAME_BYTES
    for view in views:
        rest = view
        while len(rest):
            parts.append(rest[:room])
            rest = rest[room:]
            room -= len(parts[-1])
            if room == 0:
                yield parts[0] if len(parts) == 1 else b"".join(parts)
                parts, room = [], MAX_FRAME_BYTES
    if parts:
        yield parts[0] if len(parts) == 1 else b"".join(parts)


class Decoder:
    """Decodes the frames of one peer to messages, one frame at a time.

    Args:
        admit: called with a message and the size of its payload before memory is allocated for it;
            it raises an error to refuse the message (`Session.admit`).
        most: returns the most bytes that a header may have now; a longer one is not decoded.

    Attributes:
        header: the header of the last message, as it was sent.
    """

    def __init__(
        self,
        admit: Callable[[Message, int], None],
        most: Callable[[], int] = lambda: MAX_HEADER_BYTES,
    ) -> None:
        self._admit = admit
        self._most = most
        self.header = b""
        self._message: Message | None = None
        self._payload = bytearray()
        self._filled = 0

    @property
    def moving(self) -> bool:
        """Whether a message has arrived in part."""
        return self._message is not None

    @property
    def size(self) -> int:
        """The bytes of payload of the message that has arrived in part."""
        return len(self._payload)

    def feed(self, frame: Buffer) -> tuple[Message, bytearray] | None:
        """Process the next frame.

        Returns:
            The message and its payload if the frame completes one, else None.

        Raises:
            RemoteProtocolError: the frame violates the format, or `admit` refused the message.
        """
        view = memoryview(frame).cast("B")
        full = len(view) == MAX_FRAME_BYTES
        if not 0 < len(view) <= MAX_FRAME_BYTES:
            raise RemoteProtocolError("a frame of a length that the format does not allow")
        if self._message is None:
            view = self._begin(view)
        room = len(self._payload) - self._filled
        if len(view) > room or (len(view) < room and not full):
            raise RemoteProtocolError("a payload of another length than its header says")
        self._payload[self._filled : self._filled + len(view)] = view
        self._filled += len(view)
        if self._filled < len(self._payload):
            return None
        done, self._message = self._message, None
        payload, self._payload, self._filled = self._payload, bytearray(), 0
        return (done, payload) if done is not None else None

    def _begin(self, view: memoryview) -> memoryview:
        """Read the prefix and the header; return the part of the payload in the same frame."""
        if len(view) < _PREFIX.size:
            raise RemoteProtocolError("a frame too short to start a message")
        magic, version, reserved, header_size, payload_size = _PREFIX.unpack_from(view)
        if (magic, version, reserved) != (_MAGIC, _VERSION, 0):
            raise RemoteProtocolError("not a message of this format and version")
        end = _PREFIX.size + header_size
        if header_size > self._most() or end > len(view):
            raise RemoteProtocolError("a header of a length that the format does not allow")
        message = read_header(view[_PREFIX.size : end])
        self._admit(message, payload_size)
        self._payload = bytearray(payload_size)
        self._message, self.header = message, bytes(view[_PREFIX.size : end])
        return view[end:]
