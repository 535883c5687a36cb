"""The flow control that all transports share: a window of frames, and a queue for the rest.

A sender is at most `WINDOW` frames ahead of the frames that the other side's caller has taken. The
rest waits in the sender's `Outbox`. So memory is bounded at both ends without help by the network,
and a slow reader shows at the sender as a growing `pending`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from heterofed.errors import ChannelOverflowError
from heterofed.transport.base import MAX_FRAME_BYTES, Buffer

WINDOW = 64
"""The most frames that a sender may be ahead of its reader (64 MiB at most)."""

ACK_EVERY = WINDOW // 4
"""A reader acknowledges after so many frames: early enough that the sender need not pause."""

MAX_EVENTS = 128
"""The most events that one `poll` returns."""

MAX_HELD_BYTES = 8 << 20
"""The number of bytes after which one `poll` stops reading."""


class Outbox:
    """The queue of frames for one peer. It keeps references to at most `limit` bytes of frames."""

    def __init__(self, limit: int) -> None:
        self._frames: deque[tuple[Buffer, int]] = deque()
        self._limit = limit
        self.pending = 0

    def __bool__(self) -> bool:
        return bool(self._frames)

    def put(self, frames: Iterable[Buffer]) -> None:
        """Queue all of the frames; if an error is raised, none was queued."""
        checked = [(frame, _size(frame)) for frame in frames]
        total = sum(size for _, size in checked)
        if self.pending + total > self._limit:
            raise ChannelOverflowError(
                f"{self.pending} bytes wait for a peer that does not read them;"
                f" {total} more would be over the limit of {self._limit}"
            )
        self._frames.extend(checked)
        self.pending += total

    def head(self) -> Buffer:
        return self._frames[0][0]

    def pop(self) -> None:
        self.pending -= self._frames.popleft()[1]

    def clear(self) -> None:
        self._frames.clear()
        self.pending = 0


def _size(frame: Buffer) -> int:
    if isinstance(frame, memoryview):
        if not frame.c_contiguous:
            raise ValueError("a frame must be contiguous in memory")
        size = frame.nbytes
    else:
        size = len(frame)
    if not 0 < size <= MAX_FRAME_BYTES:
        raise ValueError(f"a frame has 1 to {MAX_FRAME_BYTES} bytes, not {size}")
    return size
