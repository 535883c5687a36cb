"""A link that survives its connections: frames are numbered, acknowledged, and resent after a cut.

This module is pure: a `Link` is one end of a link and knows no socket, thread or clock. Its owner
passes in the frames that a connection brought and the current time, and sends the frames that the
link returns. `endpoint` does the rest.

A connection delivers frames in order and without gaps until it ends, but its sender does not know
which of the last frames arrived. So each connection begins with a greeting, in which both ends say
the number of the last frame that they have, and the other side continues with the next one. The
frames on the wire are (big-endian):

    Hello     "h" version token[16] resumes[1] received[8] took[8]   first of the connecting side
    Welcome   "w" received[8] took[8]                                first of the listening side
    Refusal   "x" reason[1]                                          instead of a Welcome
    Packet    "p" first[8] took[8] following[2] data                 frames from number `first` on
    End       "e" last[8]                                            closed on purpose

The data of a packet, if it has any, is frame number `first`. The next `following` frames of the
connection are the next frames of the link, unchanged. So small frames cost 19 bytes, large ones are
not copied, and the largest ones still fit. A packet with neither only acknowledges the frames up to
`took`, which the caller of its sender has taken.

Such a packet may have 1 or 2 as `first` once its sender has sent two frames. With 1 it asks for an
answer, and with 2 it is one, so that an end can measure the time of a round trip. An end that does
not know this takes both for acknowledgements.

A sender is at most `WINDOW` frames ahead of `took`, keeps these frames to resend them, and refuses
to queue more than `max_pending` further bytes. Every number that a peer sends is checked for
consistency; a `LinkError` refuses it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from heterofed.errors import LinkError
from heterofed.transport.base import MAX_PENDING_BYTES, Buffer
from heterofed.transport.flow_control import ACK_EVERY, WINDOW, Outbox
from heterofed.transport.reliable.handshake import Hello, Refusal, decode_refusal

GRACE_SECONDS = 14.0
"""A link is lost after so many seconds without a connection and without a frame of the peer."""

RETURN_SECONDS = 2.0
"""The least time in seconds that a link has to come back after its connection was lost."""

BEAT_SECONDS = 2.0
"""An end that has nothing to send acknowledges after so many seconds, to show that it is alive."""

ASKS, ANSWERS = 1, 2
"""The `first` of a packet without frames that asks for an answer, and of one that answers."""

UNANSWERED_SECONDS = 60.0
"""After so many seconds without an answer an end asks again."""

_INLINE_BYTES = 32 << 10  # a frame up to this size is copied into its packet
_WELCOME = struct.Struct(">cQQ")
_PACKET = struct.Struct(">cQQH")
_END = struct.Struct(">cQ")


class Link:
    """One end of a link.

    Args:
        now: the current time in seconds, on the same clock as the times of all methods.
        max_pending: the most bytes that may be queued here.
        grace: the grace period in seconds; see `GRACE_SECONDS`.

    Attributes:
        confirmed: whether the listening side has confirmed this link.
        ended: whether the peer closed the link; all frames before that were returned.
        refusal: why the listening side refused the link, or None.
        round_trip: the shortest time in seconds in which the peer has answered, or None if it has
            not. The peer may have been busy each time, so the way itself takes at most this long.
    """

    def __init__(
        self,
        now: float,
        *,
        max_pending: int = MAX_PENDING_BYTES,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self.confirmed = False
        self.ended = False
        self.refusal: Refusal | None = None
        self.round_trip: float | None = None
        self._queue = Outbox(max_pending)  # not given to a connection yet
        self._kept: deque[Buffer] = deque()  # given to a connection, and kept to be resent
        self._sent = 0  # the number of the last frame that was given to a connection
        self._arrived = 0  # the last of these that the peer has acknowledged
        self._allowed = 0  # the last of these that the peer's caller took
        self._said = 0  # the last of these that was given to this connection
        self._received = self._took = self._told = 0  # the same for the peer's frames
        self._following = 0  # how many next frames of the connection are frames of the link
        self._number = 0  # the number of the first of these
        self._ready = False  # after the greeting, frames may be sent
        self._welcomed = False  # the connection's greeting is complete
        self._connections = 0
        self._ending = self._end_said = False
        self._grace = grace
        self._heard_at = self._spoke_at = now
        self._down_at: float | None = None
        self._asked_at: float | None = None  # the time of a question without an answer
        self._asks_at = now + BEAT_SECONDS  # the time of the next question
        self._owes = False  # the peer has asked for an answer

    # -- the owner's side -----------------------------------------------------------------

    def put(self, frames: Iterable[Buffer]) -> None:
        """Queue all of the frames, or raise an error of `Channel.send` and queue none."""
        self._queue.put(frames)

    def take(self) -> None:
        """Note that the caller took one of the frames that `feed` returned."""
        self._took += 1

    def end(self) -> None:
        """Close the link: tell the peer so, after all queued frames."""
        self._ending = True

    def drop(self) -> None:
        """Drop every frame, because the peer is gone."""
        self._queue.clear()
        self._kept.clear()
        self._ready = False

    @property
    def pending(self) -> int:
        """The number of bytes that were not given to a connection yet."""
        return self._queue.pending

    @property
    def untouched(self) -> int:
        """The number of the peer's frames while the caller has taken none of them; afterwards 0."""
        return 0 if self._took else self._received

    @property
    def kept(self) -> int:
        """The number of frames that are kept to be resent, at most `WINDOW`."""
        return len(self._kept)

    @property
    def idle(self) -> bool:
        """Whether the link is connected and has nothing queued."""
        return self._ready and not self._queue and self._said == self._sent

    # -- connections -----------------------------------------------------------------------

    def hello(self, token: bytes) -> bytes:
        """Return the connecting side's first frame of a new connection.

        Args:
            token: the `TOKEN_BYTES` random bytes that identify the link; always the same ones.
        """
        self._begin()
        # On the first connection the peer cannot have frames, so its Welcome need not be awaited.
        self._ready = self._connections == 1
        return Hello(token, self.confirmed, self._received, self._took).encode()

    def welcome(self, hello: Hello, now: float) -> bytes:
        """Return the listening side's first frame of a connection that began with `hello`.

        Raises:
            LinkError: the numbers in the Hello are inconsistent with this link.
        """
        self._begin()
        self._go_on_after(hello.received, hello.took)
        self.confirmed = self._welcomed = self._ready = True
        self.up(now)
        return _WELCOME.pack(b"w", self._received, self._took)

    def up(self, now: float) -> None:
        """Note that there is a connection."""
        self._heard_at, self._down_at = now, None

    def down(self, now: float) -> None:
        """Note that the connection was lost."""
        self._ready = False
        if self._down_at is None:
            self._down_at = now

    @property
    def is_down(self) -> bool:
        """Whether there is no connection."""
        return self._down_at is not None

    @property
    def greeted(self) -> bool:
        """Whether both ends have greeted each other on this connection."""
        return self._welcomed

    def gives_up_at(self) -> float | None:
        """The time at which the link is lost if no connection comes back; None while it has one."""
        if self._down_at is None:
            return None
        return max(self._heard_at + self._grace, self._down_at + min(RETURN_SECONDS, self._grace))

    def beats_at(self) -> float | None:
        """The time at which the link will acknowledge by itself; None if it cannot send."""
        return self._spoke_at + BEAT_SECONDS if self._ready else None

    # -- frames ----------------------------------------------------------------------------

    def is_silent(self, now: float) -> bool:
        """Return whether `outgoing` has nothing to send now; it takes less time to ask."""
        return not self._ready or not (
            self._queue
            or self._owes
            or self._ending
            or self._said != self._sent
            or self._took - self._told >= ACK_EVERY
            or now >= self._asks_at
            or now - self._spoke_at >= BEAT_SECONDS
        )

    def outgoing(self, now: float) -> list[Buffer]:
        """Return the frames to send over the connection now."""
        if not self._ready:
            return []
        frames: list[Buffer] = []
        if self._queue or self._said != self._sent:
            frames += self._packets()
        if self._owes or now >= self._asks_at:
            frames += self._timing(now)
        due = self._took - self._told >= ACK_EVERY or now - self._spoke_at >= BEAT_SECONDS
        if not frames and due and not self._end_said:
            frames.append(self._packet(0))
        if self._ending and not self._end_said and not self._queue:
            self._end_said = True
            frames.append(_END.pack(b"e", self._sent))
        if frames:
            self._spoke_at = now
        return frames

    def feed(self, frame: Buffer, now: float) -> Buffer | None:
        """Process a frame of a connection; at the listening side, any one but the first.

        Returns:
            The peer's next frame of the link if the connection's frame completed one, else None.
            It may share memory with `frame`.

        Raises:
            LinkError: the frame is not allowed here, or its numbers are inconsistent.
        """
        self._heard_at = now
        if self._following:
            self._following -= 1
            self._number += 1
            return self._fresh(self._number - 1, frame)
        match bytes(frame[:1]):
            case b"p":
                return self._open_packet(frame, now)
            case b"w" if len(frame) == _WELCOME.size and not self._welcomed:
                _, received, took = _WELCOME.unpack(frame)
                self._go_on_after(received, took)
                self.confirmed = self._welcomed = self._ready = True
            case b"e" if len(frame) == _END.size and self._welcomed:
                if _END.unpack(frame)[1] != self._received:
                    raise LinkError(
                        "the peer closed the link with another number than that of its last frame"
                    )
                self.ended = True
            case b"x" if not self._welcomed:
                self.refusal = decode_refusal(frame)
            case _:
                raise LinkError("the peer sent a frame that the link does not allow here")
        return None

    # -- internal --------------------------------------------------------------------------

    def _begin(self) -> None:
        self._connections += 1
        self._asked_at, self._owes = None, False
        self._following = 0
        self._welcomed = self._ready = self._end_said = False

    def _go_on_after(self, received: int, took: int) -> None:
        """Continue after the frames that the peer says it has."""
        if not self._allowed <= took <= received <= self._sent or received < self._arrived:
            raise LinkError(
                "the peer claims frames that it cannot have, or has lost frames that it had"
            )
        self._forget(received)
        self._allowed = took
        # The first connection may carry frames before the Welcome arrives.
        if not self._ready:
            self._said = received

    def _forget(self, number: int) -> None:
        """Drop the kept frames up to this number, because the peer has them."""
        for _ in range(number - self._arrived):
            self._kept.popleft()
        self._arrived = max(self._arrived, number)
        self._said = max(self._said, self._arrived)

    def _packets(self) -> Iterator[Buffer]:
        while self._queue and self._sent - self._allowed < WINDOW:
            frame = self._queue.head()
            # Copy what the caller may change from here on, because it is no longer pending.
            self._kept.append(frame if isinstance(frame, bytes) else bytes(frame))
            self._queue.pop()
            self._sent += 1
        again = list(islice(self._kept, self._said - self._arrived, None))
        at = 0
        while at < len(again):
            inline = again[at] if len(again[at]) <= _INLINE_BYTES else b""
            end = at + bool(inline)
            while end < len(again) and len(again[end]) > _INLINE_BYTES:
                end += 1
            large = again[at + bool(inline) : end]
            yield self._packet(len(large), inline)
            yield from large
            self._said += end - at
            at = end

    def _packet(self, following: int, inline: Buffer = b"") -> bytes:
        self._told = self._took
        return _PACKET.pack(b"p", self._said + 1, self._took, following) + inline

    def _timing(self, now: float) -> Iterator[bytes]:
        """Answer the peer, or ask it, with a packet that acknowledges too."""
        if self._said < ANSWERS or self._end_said:
            return
        if self._owes:
            self._owes = False
            yield self._note(ANSWERS)
        elif now >= self._asks_at:
            self._asked_at, self._asks_at = now, now + UNANSWERED_SECONDS
            yield self._note(ASKS)

    def _note(self, first: int) -> bytes:
        self._told = self._took
        return _PACKET.pack(b"p", first, self._took, 0)

    def _hear(self, first: int, now: float) -> None:
        """Note a packet without frames; most of them only acknowledge."""
        if first == self._received + 1:
            return
        if first == ASKS:
            self._owes = True
        elif first == ANSWERS and self._asked_at is not None:
            took = max(0.0, now - self._asked_at)
            self.round_trip = took if self.round_trip is None else min(took, self.round_trip)
            self._asked_at, self._asks_at = None, now + BEAT_SECONDS

    def _open_packet(self, frame: Buffer, now: float) -> Buffer | None:
        inline = len(frame) - _PACKET.size
        if not self._welcomed or not 0 <= inline <= _INLINE_BYTES:
            raise LinkError("the peer sent a packet of a wrong length, or before its Welcome")
        _, first, took, following = _PACKET.unpack_from(frame)
        if took > self._sent:
            raise LinkError("the peer acknowledged frames that were not sent to it")
        count = following + bool(inline)
        if not 0 < first <= self._received + 1:
            raise LinkError("the peer skipped frames")
        if first - 1 + count > self._took + WINDOW:
            raise LinkError("the peer sent more frames than its window allows")
        self._allowed = max(took, self._allowed)
        self._forget(max(took, self._arrived))
        self._number, self._following = first + bool(inline), following
        if not count:
            self._hear(first, now)
        return self._fresh(first, memoryview(frame)[_PACKET.size :]) if inline else None

    def _fresh(self, number: int, frame: Buffer) -> Buffer | None:
        """Return the frame of the peer, or None if it was received before."""
        if number <= self._received:
            return None
        self._received = number
        return frame
