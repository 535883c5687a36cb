"""The transport within one process, for tests and simulations, with the same events and bounds.

A `Hub` is the network. One endpoint listens and any number connect; each of them may be used by a
thread of its own. The hub's condition variable guards all state. A hub can simulate a slow network:
each direction of each connection then delivers its frames at a limited rate and after a latency.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from heterofed.errors import ChannelClosedError, ConfigError
from heterofed.transport.base import (
    MAX_CHANNELS,
    MAX_PENDING_BYTES,
    Buffer,
    Channel,
    Endpoint,
    Event,
    Lost,
    LostReason,
    Opened,
    Received,
)
from heterofed.transport.flow_control import MAX_EVENTS, MAX_HELD_BYTES, WINDOW, Outbox


class Hub:
    """A network in memory with one listener.

    Args:
        max_channels: the most connections that the listener keeps; further ones are refused
            (`FULL`). max_pending: the most bytes that may wait for one peer. latency: the seconds
            from sending a frame to receiving it. rate: the bytes per second and direction of a
            connection; None sets no limit.
    """

    def __init__(
        self,
        *,
        max_channels: int = MAX_CHANNELS,
        max_pending: int = MAX_PENDING_BYTES,
        latency: float = 0.0,
        rate: float | None = None,
    ) -> None:
        self.max_channels = max_channels
        self.max_pending = max_pending
        self.latency = latency
        self.rate = rate
        self.changed = threading.Condition()
        self._listener: MemoryEndpoint | None = None

    def listen(self) -> MemoryEndpoint:
        with self.changed:
            if self._listener is not None and not self._listener.closed:
                raise ConfigError("this hub has a listener already; make another hub")
            self._listener = MemoryEndpoint(self)
            return self._listener

    def connect(self, party: str | None = None) -> MemoryEndpoint:
        """Connect to the listener.

        Args:
            party: the party that the listener's channel proves, or None for an unproven one.

        Returns:
            The endpoint of the connecting side.
        """
        with self.changed:
            endpoint = MemoryEndpoint(self)
            near = MemoryChannel(endpoint, None)
            near.announced = True
            endpoint.channels.append(near)
            if self._listener is None or self._listener.closed:
                near.broken = LostReason.REFUSED
            else:
                far = MemoryChannel(self._listener, party)
                near.other, far.other = far, near
                self._listener.channels.append(far)
                endpoint.news.append(Opened(near))
            return endpoint

    def cut(self, channel: Channel) -> None:
        """Break a connection, so that both sides lose it, as if the network had failed."""
        if not isinstance(channel, MemoryChannel):
            raise TypeError("only a channel of this hub can be cut")
        with self.changed:
            channel.broken = LostReason.DISCONNECTED
            channel.tell_other(LostReason.DISCONNECTED)
            self.changed.notify_all()


class MemoryChannel(Channel):
    """One end of a connection."""

    def __init__(self, endpoint: MemoryEndpoint, party: str | None) -> None:
        self.party = party
        self.other: MemoryChannel | None = None
        self.inbox: deque[tuple[float, bytes]] = deque()  # the time of its arrival, and the frame
        self.taken = 0.0  # until when earlier frames occupy this side's line
        self.outbox = Outbox(endpoint.hub.max_pending)
        self.announced = False
        self.gone = False
        self.broken: LostReason | None = None
        self._endpoint = endpoint
        self._changed = endpoint.hub.changed

    def send(self, frames: Iterable[Buffer]) -> None:
        with self._changed:
            if self.gone or self.broken is not None:
                raise ChannelClosedError(f"the connection to {self.party or 'a peer'} is gone")
            self.outbox.put(frames)
            self.pump()

    @property
    def pending(self) -> int:
        with self._changed:
            return self.outbox.pending

    def close(self) -> None:
        with self._changed:
            self.forget()
            self.tell_other(LostReason.CLOSED)
            self._changed.notify_all()

    def pump(self) -> None:
        """Move queued frames to the other side, as far as the window allows."""
        other = self.other
        if other is None or self.gone or self.broken is not None:
            self.outbox.clear()
            return
        moved = False
        hub = self._endpoint.hub
        while self.outbox and len(other.inbox) < WINDOW:
            frame = bytes(self.outbox.head())
            busy = len(frame) / hub.rate if hub.rate else 0.0
            self.taken = max(self.taken, time.monotonic()) + busy
            other.inbox.append((self.taken + hub.latency, frame))
            self.outbox.pop()
            moved = True
        if moved:
            self._changed.notify_all()

    def tell_other(self, reason: LostReason) -> None:
        if self.other is not None and self.other.broken is None:
            self.other.broken = reason

    def forget(self) -> None:
        self.gone = True
        self.inbox.clear()
        self.outbox.clear()
        if self in self._endpoint.channels:
            self._endpoint.channels.remove(self)


class MemoryEndpoint(Endpoint):
    """One party's end of its connections in a `Hub`."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.channels: list[MemoryChannel] = []
        self.news: list[Event] = []
        self.closed = False

    @property
    def channel(self) -> MemoryChannel:
        """The channel of an endpoint that connected."""
        return self.channels[0]

    def poll(self, timeout: float) -> list[Event]:
        deadline = time.monotonic() + timeout
        with self.hub.changed:
            while True:
                for channel in self.channels:
                    channel.pump()
                if events := self._collect():
                    self.hub.changed.notify_all()
                    return events
                left = deadline - time.monotonic()
                if left <= 0:
                    return []
                self.hub.changed.wait(min([left, *self._due()]))

    def flush(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        with self.hub.changed:
            while True:
                for channel in self.channels:
                    channel.pump()
                if not any(channel.outbox for channel in self.channels):
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self.hub.changed.wait(left)

    def close(self, linger: float = 0.0) -> None:
        with self.hub.changed:
            if self.closed:
                return
            polite = linger > 0 and self.flush(linger)
            self.closed = True
            for channel in list(self.channels):
                channel.forget()
                channel.tell_other(LostReason.CLOSED if polite else LostReason.DISCONNECTED)
            self.hub.changed.notify_all()

    def _due(self) -> list[float]:
        """Return the seconds until the next frame of each channel arrives."""
        now = time.monotonic()
        return [max(0.0, each.inbox[0][0] - now) for each in self.channels if each.inbox]

    def _collect(self) -> list[Event]:
        events = [event for event in self.news if event.channel in self.channels]
        self.news.clear()
        held = 0
        now = time.monotonic()
        for channel in list(self.channels):
            if not channel.announced and channel.inbox and channel.inbox[0][0] <= now:
                if sum(other.announced for other in self.channels) >= self.hub.max_channels:
                    channel.forget()
                    channel.tell_other(LostReason.FULL)
                    continue
                channel.announced = True
                events.append(Opened(channel))
            while (
                channel.inbox
                and channel.inbox[0][0] <= now
                and len(events) < MAX_EVENTS - 1
                and held < MAX_HELD_BYTES
            ):
                frame = channel.inbox.popleft()[1]
                held += len(frame)
                events.append(Received(channel, frame))
            if channel.broken is not None and not channel.inbox:
                if channel.announced:
                    events.append(Lost(channel, channel.broken))
                channel.forget()
            if len(events) >= MAX_EVENTS - 1:
                break
        # The channels that were served now come last in the next call.
        self.channels = self.channels[1:] + self.channels[:1]
        return events
