"""What a transport must do; the contract that every transport's tests share.

A transport moves whole frames (bytes) between parties, in order, per connection. It knows who
is at the other end only where the connection itself proves it (CURVE). It knows nothing of
messages, sessions, tasks or tensors, and it never blocks in `send`: what the network does not
take yet waits in a bounded queue, and one peer that stops reading never stalls another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_FRAME_BYTES = 1 << 20
"""Largest frame on the wire (1 MiB): progress shows, memory stays flat, heartbeats pass between."""

MAX_PENDING_BYTES = 256 << 20
"""What may wait for one peer, unless the caller says otherwise."""

MAX_CHANNELS = 128
"""Connections that a listener keeps state for, unless the caller says otherwise."""


class LostReason(StrEnum):
    """Why a connection is gone: the whole vocabulary of `Lost.reason`."""

    REFUSED = "refused"
    """Nobody listens at the address, or it cannot be reached."""

    HANDSHAKE_FAILED = "handshake failed"
    """The other end does not know our key, we do not know its key, or it is no heterofed."""

    FULL = "full"
    """The listener keeps no further connection (`max_channels`, or this party's share of it)."""

    CLOSED = "closed"
    """The other side closed the connection on purpose."""

    DISCONNECTED = "disconnected"
    """The connection broke: the peer's process or the link is gone."""

    FORGOTTEN = "forgotten"
    """The other side is there and knows nothing of this connection: it was restarted."""

    MALFORMED = "malformed"
    """The peer sent what this transport never sends."""


class Channel(ABC):
    """One connection to one peer.

    Attributes:
        party: the party this connection is proven to belong to, or None where the transport
            proves nothing (Unix socket, memory without a name).
    """

    party: str | None

    @abstractmethod
    def send(self, frames: Iterable[Buffer]) -> None:
        """Queue frames for sending, in order; never blocks.

        What the network does not take at once is kept by reference and sent by the endpoint's
        `poll` or `flush`: buffers must not change before `pending` is 0.

        Raises:
            ChannelClosedError: the connection is gone (a `Lost` event says or said so) or closed.
            ChannelOverflowError: more than `max_pending` bytes would wait; nothing was queued.
            ValueError: a frame is empty, longer than `MAX_FRAME_BYTES` or not contiguous; nothing
                was queued.
        """

    @property
    @abstractmethod
    def pending(self) -> int:
        """Bytes queued here that the network has not taken yet."""

    @abstractmethod
    def close(self) -> None:
        """Forget this connection: queued frames are dropped, later frames from it ignored.

        No event about it follows here; the other side gets `Lost`.
        """


@dataclass(frozen=True, slots=True)
class Opened:
    """A peer is there (at a listener: its first frame came, and follows as `Received`)."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class Received:
    """One frame of a peer, in the order in which that peer sent them.

    A peer may be a bounded number of frames ahead of what `poll` returned; then it waits.
    """

    channel: Channel
    frame: Buffer


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone; every frame that had arrived was delivered before this."""

    channel: Channel
    reason: LostReason


Event: TypeAlias = Opened | Received | Lost


class Endpoint(ABC):
    """This party's end of all its connections. Used from one thread at a time."""

    @abstractmethod
    def poll(self, timeout: float) -> list[Event]:
        """Send what waits and return what happened.

        Args:
            timeout: seconds to wait for something to happen; 0 looks and returns at once.

        Returns:
            Events in order; an empty list when the timeout passed. A bounded number per call, so
            that a flooding peer cannot keep the caller here.
        """

    @abstractmethod
    def flush(self, timeout: float) -> bool:
        """Wait until every channel's queue is empty; False where `timeout` seconds did not do.

        Also False, at once, where so much has arrived that `poll` must be called first.
        """

    @abstractmethod
    def close(self, linger: float = 0.0) -> None:
        """Close every connection; up to `linger` seconds for frames still on their way out.

        With a linger it returns as soon as every peer has said that it read all of them. Frames
        that arrive meanwhile are dropped. Closing twice is harmless.
        """
