"""The contract that every transport fulfils; all transports share its tests.

A transport moves whole frames (bytes) between parties, in order within a connection. It knows the
party at the other end only if the connection itself proves it (CURVE). It knows nothing of
messages, sessions, tasks or tensors. Its `send` never blocks: frames that the network does not
accept yet wait in a bounded queue, and a peer that stops reading never delays another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_FRAME_BYTES = 1 << 20
"""Largest frame on the wire in bytes (1 MiB), so that memory stays small and heartbeats pass."""

MAX_PENDING_BYTES = 256 << 20
"""Default for the most bytes that may wait to be sent to one peer."""

MAX_CHANNELS = 128
"""Default for the most connections that a listener keeps."""


class LostReason(StrEnum):
    """Why a connection was lost."""

    REFUSED = "refused"
    """Nothing listens at the address, or it cannot be reached."""

    HANDSHAKE_FAILED = "handshake failed"
    """One end does not know the other's key, or the other end does not run heterofed."""

    FULL = "full"
    """The listener has as many connections as it keeps, in all or of this party."""

    CLOSED = "closed"
    """The other side closed the connection on purpose."""

    DISCONNECTED = "disconnected"
    """The connection broke: the peer's process ended, or the network failed."""

    FORGOTTEN = "forgotten"
    """The other side was restarted and does not know this connection."""

    MALFORMED = "malformed"
    """The peer sent data that this transport never sends."""


class Channel(ABC):
    """One connection to one peer.

    Attributes:
        party: the party to which this connection provably belongs, or None if the transport proves
            nothing (a Unix socket, or memory without a name).
    """

    party: str | None

    @abstractmethod
    def send(self, frames: Iterable[Buffer]) -> None:
        """Queue frames for sending, in order. This method never blocks.

        Frames that the network does not accept at once are kept by reference and sent by the
        endpoint's `poll` or `flush`, so buffers must not change before `pending` is 0.

        Raises:
            ChannelClosedError: the connection is lost or closed.
            ChannelOverflowError: more than `max_pending` bytes would wait; nothing was queued.
            ValueError: a frame is empty, longer than `MAX_FRAME_BYTES` or not contiguous; nothing
                was queued.
        """

    @property
    @abstractmethod
    def pending(self) -> int:
        """The number of queued bytes that the network has not accepted yet."""

    @property
    def round_trip(self) -> float | None:
        """The shortest time in seconds from this end to the other and back, or None if the
        transport has not measured it.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Close this connection: queued frames are dropped, and later frames from it are ignored.

        No event about it follows on this side; the other side gets `Lost`.
        """


@dataclass(frozen=True, slots=True)
class Opened:
    """A peer is connected. At a listener, its first frame follows as `Received`."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class Received:
    """One frame of a peer. Frames arrive in the order in which the peer sent them.

    A peer can send a bounded number of frames more than `poll` has returned; then it has to wait.
    """

    channel: Channel
    frame: Buffer


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is lost. Every frame that had arrived was delivered before this event."""

    channel: Channel
    reason: LostReason


Event: TypeAlias = Opened | Received | Lost


class Endpoint(ABC):
    """This party's end of all its connections. It must be used from one thread at a time."""

    @abstractmethod
    def poll(self, timeout: float) -> list[Event]:
        """Send queued frames and return the events that occurred.

        Args:
            timeout: seconds to wait for an event; 0 returns at once.

        Returns:
            Events in order, or an empty list if the timeout passed. The number of events per call
            is bounded, so that a flooding peer cannot keep the caller here.
        """

    @abstractmethod
    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until every channel's queue is empty.

        Returns:
            Whether all queues are empty. It is False at once if so many frames have arrived that
            `poll` must be called first.
        """

    @abstractmethod
    def close(self, linger: float = 0.0) -> None:
        """Close every connection, after waiting up to `linger` seconds for queued frames to be
        sent.  The wait ends as soon as every peer has confirmed that it read all of them. Frames
        that arrive meanwhile are dropped. Closing twice is harmless.
        """
