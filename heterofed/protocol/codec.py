"""Message <-> frames. The whole format, byte by byte; nothing else in heterofed knows it.

A message is a byte stream, cut into frames of at most 1 MiB:

    offset  size  what
    0       2     "HF"
    2       1     format version, 1
    3       1     0 (reserved)
    4       4     length of the header, little-endian, at most 256 KiB
    8       8     length of the payload, little-endian
    16            header: the message as MessagePack (an array that starts with its name)
                  payload: raw bytes (blinded values; tensors one after another, row-major,
                  little-endian)

Every message starts a new frame, and all frames but its last are full. The receiver decodes and
judges the header before it makes room for the payload.
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
        message: the header.
        payload: C-contiguous buffers that follow it; large ones are referred to, not copied, so
            they must stay as they are until the frames were sent.

    Returns:
        Frames of 1 byte to 1 MiB.

    Raises:
        LocalProtocolError: a field is out of the range that its type allows (structs check what
            they are decoded from, not what they are built from), so the peer would refuse it.
    """
    try:
        header = _encoder.encode(message)
        _decoder.decode(header)
    except _MALFORMED as why:
        raise LocalProtocolError(f"{type(message).__name__} cannot be sent: {why}") from why
    views = [memoryview(part).cast("B") for part in payload if memoryview(part).nbytes]
    size = sum(len(view) for view in views)
    start = _PREFIX.pack(_MAGIC, _VERSION, 0, len(header), size) + header
    return list(_frames([memoryview(start), *views]))


def payload_size(payload: Sequence[Buffer]) -> int:
    """Bytes of a payload."""
    return sum(memoryview(part).nbytes for part in payload)


def _frames(views: Iterable[memoryview]) -> Iterator[Buffer]:
    """Full frames, a last short one; a frame within one buffer is a slice of it."""
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
    """Frames -> messages of one peer, one frame at a time.

    Args:
        admit: called with the message and the length of its payload before the payload is given
            room; it raises what the peer should be refused with (`Session.admit`).
        most: gives the bytes that a header may have now; a longer one is not decoded.
    """

    def __init__(
        self,
        admit: Callable[[Message, int], None],
        most: Callable[[], int] = lambda: MAX_HEADER_BYTES,
    ) -> None:
        self._admit = admit
        self._most = most
        self._message: Message | None = None
        self._payload = bytearray()
        self._filled = 0

    @property
    def moving(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._message is not None

    @property
    def size(self) -> int:
        """Bytes of payload of the message that is moving."""
        return len(self._payload)

    def feed(self, frame: Buffer) -> tuple[Message, bytearray] | None:
        """Take the next frame.

        Returns:
            The message and its payload once it is complete, else None.

        Raises:
            RemoteProtocolError: the frame is not what the format says, or `admit` refused it.
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
        """Read prefix and header; returns what of the payload came in the same frame."""
        if len(view) < _PREFIX.size:
            raise RemoteProtocolError("a frame too short to start a message")
        magic, version, reserved, header_size, payload_size = _PREFIX.unpack_from(view)
        if (magic, version, reserved) != (_MAGIC, _VERSION, 0):
            raise RemoteProtocolError("not a message of this format and version")
        end = _PREFIX.size + header_size
        if header_size > self._most() or end > len(view):
            raise RemoteProtocolError("a header of a length that the format does not allow")
        try:
            message = _decoder.decode(view[_PREFIX.size : end])
        except _MALFORMED:
            # The text of the error may quote what the peer sent.
            raise RemoteProtocolError("a header that is not a message of this protocol") from None
        self._admit(message, payload_size)
        self._payload = bytearray(payload_size)
        self._message = message
        return view[end:]
