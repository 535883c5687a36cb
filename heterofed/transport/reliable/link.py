"""A link that outlives its connections: numbered frames, acknowledged, sent again after a cut.

Pure: a `Link` is one end of it and knows no socket, thread or clock. It is told what a connection
brought and what time it is, and says what to give to the connection. `links` does the rest.

A connection delivers frames in order and without gaps until it ends; what of the last ones came
through, nobody knows. So each one begins with a greeting, in which both ends say the number of the
last frame that they have; the other side goes on behind it. On the wire (big-endian):

    Hello     "h" version token[16] resumes[1] received[8] took[8]   first of the connecting side
    Welcome   "w" received[8] took[8]                                first of the listening side
    Refusal   "x" reason[1]                                          instead of a Welcome
    Packet    "p" first[8] took[8] following[2] data                 frames from number `first` on
    End       "e" last[8]                                            closed on purpose

The data of a packet, where it has any, is frame `first`; the `following` connection frames are the
next ones, as they are. So small frames cost 19 bytes, large ones are not copied, and the largest
still fit. A packet without either only acknowledges: its sender's caller took all up to `took`.

Bounds: a sender is at most `WINDOW` frames ahead of `took`, keeps these in case they must be sent
again, and refuses to queue more than `max_pending` bytes behind them. Whatever a peer claims is
checked against what can be, and refused by a `LinkError`.
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
"""After so long without a word of the peer, and without a connection, a link is lost."""

RETURN_SECONDS = 2.0
"""What a link has at least, to come back, from when the end of its connection was noticed."""

BEAT_SECONDS = 2.0
"""After so long without anything to say, an end acknowledges: so the other one hears of it."""

_INLINE_BYTES = 32 << 10  # up to this a frame rides in its packet, at the price of a copy
_WELCOME = struct.Struct(">cQQ")
_PACKET = struct.Struct(">cQQH")
_END = struct.Struct(">cQ")


class Link:
    """One end of a link.

    Args:
        now: the time, on the clock of everything else that is given here.
        max_pending: bytes that may wait here and not be handed over.
        grace: see `GRACE_SECONDS`.

    Attributes:
        confirmed: the listening side has shown that it knows this link.
        ended: the peer closed it on purpose, and everything before that was given out.
        refusal: why the listening side will have nothing of it.
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
        self._queue = Outbox(max_pending)  # not handed over yet
        self._kept: deque[Buffer] = deque()  # handed over, and perhaps to be sent again
        self._sent = 0  # number of the last frame that was handed over
        self._arrived = 0  # of these, the last that the peer is known to have
        self._allowed = 0  # of these, the last that its caller took
        self._said = 0  # of these, the last that this connection got
        self._received = self._took = self._told = 0  # the same of what the peer sends
        self._following = 0  # connection frames that are the peer's frames as they are
        self._number = 0  # of the first of these
        self._ready = False  # greeted: frames may be handed over
        self._welcomed = False  # the connection's greeting is complete
        self._connections = 0
        self._ending = self._end_said = False
        self._grace = grace
        self._heard_at = self._spoke_at = now
        self._down_at: float | None = None

    # -- what its owner gives and takes ----------------------------------------------------

    def put(self, frames: Iterable[Buffer]) -> None:
        """Queue frames; all or, raising what `Channel.send` raises, none."""
        self._queue.put(frames)

    def take(self) -> None:
        """The caller took one of the frames that `feed` gave."""
        self._took += 1

    def end(self) -> None:
        """Say, behind all frames, that the link is closed on purpose."""
        self._ending = True

    def drop(self) -> None:
        """Forget every frame: nobody is there for them."""
        self._queue.clear()
        self._kept.clear()
        self._ready = False

    @property
    def pending(self) -> int:
        """Bytes that were not handed over yet: the peer is behind, or there is no connection."""
        return self._queue.pending

    @property
    def untouched(self) -> int:
        """Frames of the peer, as long as the caller has taken none of them; then 0."""
        return 0 if self._took else self._received

    @property
    def kept(self) -> int:
        """Frames kept in case they must be sent again; `WINDOW` at most."""
        return len(self._kept)

    @property
    def idle(self) -> bool:
        """Whether everything was given to a connection that is there."""
        return self._ready and not self._queue and self._said == self._sent

    # -- connections -----------------------------------------------------------------------

    def hello(self, token: bytes) -> bytes:
        """The first frame of a new connection of the connecting side.

        Args:
            token: what names the link; always the same `TOKEN_BYTES` random ones.
        """
        self._begin()
        # What is known of the peer without a Welcome: it has nothing, as long as it got nothing.
        self._ready = self._connections == 1
        return Hello(token, self.confirmed, self._received, self._took).encode()

    def welcome(self, hello: Hello, now: float) -> bytes:
        """The first frame of the listening side for a connection that began with `hello`.

        Raises:
            LinkError: it claims what cannot be.
        """
        self._begin()
        self._go_on_after(hello.received, hello.took)
        self.confirmed = self._welcomed = self._ready = True
        self.up(now)
        return _WELCOME.pack(b"w", self._received, self._took)

    def up(self, now: float) -> None:
        """A connection is there."""
        self._heard_at, self._down_at = now, None

    def down(self, now: float) -> None:
        """The end of the connection was noticed."""
        self._ready = False
        if self._down_at is None:
            self._down_at = now

    @property
    def is_down(self) -> bool:
        """Whether there is no connection."""
        return self._down_at is not None

    @property
    def greeted(self) -> bool:
        """Whether both ends of the connection know where to go on."""
        return self._welcomed

    def gives_up_at(self) -> float | None:
        """When it is lost, if nothing comes back before; None while there is a connection."""
        if self._down_at is None:
            return None
        return max(self._heard_at + self._grace, self._down_at + min(RETURN_SECONDS, self._grace))

    def beats_at(self) -> float | None:
        """When it will have something to say for itself; None where it cannot."""
        return self._spoke_at + BEAT_SECONDS if self._ready else None

    # -- what goes over them ---------------------------------------------------------------

    def outgoing(self, now: float) -> list[Buffer]:
        """What to give to the connection now."""
        if not self._ready:
            return []
        frames = list(self._packets())
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
        """Take what a connection brought, after its first frame at the listening side.

        Returns:
            The peer's next frame, if this brought one; buffers may be the ones that came.

        Raises:
            LinkError: the peer says what it may not say, or claims what cannot be.
        """
        self._heard_at = now
        if self._following:
            self._following -= 1
            self._number += 1
            return self._fresh(self._number - 1, frame)
        match bytes(frame[:1]):
            case b"p":
                return self._open_packet(frame)
            case b"w" if len(frame) == _WELCOME.size and not self._welcomed:
                _, received, took = _WELCOME.unpack(frame)
                self._go_on_after(received, took)
                self.confirmed = self._welcomed = self._ready = True
            case b"e" if len(frame) == _END.size and self._welcomed:
                if _END.unpack(frame)[1] != self._received:
                    raise LinkError("the peer ended the link at another frame than its last")
                self.ended = True
            case b"x" if not self._welcomed:
                self.refusal = decode_refusal(frame)
            case _:
                raise LinkError("the peer said what the link does not have, or not there")
        return None

    # -- within ----------------------------------------------------------------------------

    def _begin(self) -> None:
        self._connections += 1
        self._following = 0
        self._welcomed = self._ready = self._end_said = False

    def _go_on_after(self, received: int, took: int) -> None:
        """The peer has said what it has."""
        if not self._allowed <= took <= received <= self._sent or received < self._arrived:
            raise LinkError("the peer claims to have frames that it cannot have, or lost others")
        self._forget(received)
        self._allowed = took
        # A first connection may have been given frames before the Welcome came.
        if not self._ready:
            self._said = received

    def _forget(self, number: int) -> None:
        """The peer has every frame up to this one."""
        for _ in range(number - self._arrived):
            self._kept.popleft()
        self._arrived = max(self._arrived, number)
        self._said = max(self._said, self._arrived)

    def _packets(self) -> Iterator[Buffer]:
        while self._queue and self._sent - self._allowed < WINDOW:
            frame = self._queue.head()
            # What may be changed under us from here on, because it does not count as pending.
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

    def _open_packet(self, frame: Buffer) -> Buffer | None:
        inline = len(frame) - _PACKET.size
        if not self._welcomed or not 0 <= inline <= _INLINE_BYTES:
            raise LinkError("the peer sent a packet of a wrong length, or before its Welcome")
        _, first, took, following = _PACKET.unpack_from(frame)
        if took > self._sent:
            raise LinkError("the peer took frames that it was not sent")
        count = following + bool(inline)
        if not 0 < first <= self._received + 1:
            raise LinkError("the peer left frames out")
        if first - 1 + count > self._took + WINDOW:
            raise LinkError("the peer sent more than it may be ahead")
        self._allowed = max(took, self._allowed)
        self._forget(max(took, self._arrived))
        self._number, self._following = first + bool(inline), following
        return self._fresh(first, frame[_PACKET.size :]) if inline else None

    def _fresh(self, number: int, frame: Buffer) -> Buffer | None:
        """A frame of the peer, unless it is here already."""
        if number <= self._received:
            return None
        self._received = number
        return frame
