"""The part that both sides of the reliable transport share: links over another transport's
channels.  After a cut, a link continues over the next connection. The caller sees it as lost only
if no connection came back within the grace period, or if the peer closed it or was restarted.
`link` has the rules, `connector` is the connecting side, and `listener` the listening side.  The
owner of an endpoint may compute for minutes between two calls. Meanwhile a thread of the endpoint
does the work that cannot wait: it answers, acknowledges and reconnects. It holds the endpoint's
lock only for short times, and only while the owner is in no method of the endpoint.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable

from heterofed.errors import ChannelClosedError, LinkError
from heterofed.transport.base import (
    Buffer,
    Channel,
    Endpoint,
    Event,
    Lost,
    LostReason,
    Opened,
    Received,
)
from heterofed.transport.flow_control import MAX_EVENTS
from heterofed.transport.interrupts import UNINTERRUPTED
from heterofed.transport.reliable.handshake import Refusal
from heterofed.transport.reliable.link import Link

logger = logging.getLogger("heterofed")

KEEP_SECONDS = 0.5
"""The endpoint's thread serves the links if the owner made no call for so many seconds."""

KEEP_TURNS = 16
"""The most turns that the thread takes at once while each of them finds more to read.

Frames are better read here than kept by the transport below, which does not know a peer's window.
"""

CLOSE_SECONDS = 0.05
"""The seconds of one wait while closing; after each wait, deadlines are checked."""

FINAL = (LostReason.CLOSED, LostReason.MALFORMED)
"""The reasons for which a lost connection ends its link too."""

_REFUSALS = {Refusal.UNKNOWN: LostReason.FORGOTTEN, Refusal.FULL: LostReason.FULL}


class LinkChannel(Channel):
    """The channel of one link. The endpoint does the work."""

    def __init__(
        self, endpoint: LinkEndpoint, link: Link, party: str | None, token: bytes, now: float
    ) -> None:
        self.party = party
        self.link = link
        self.token = token
        self.began_at = now
        self.inner: Channel | None = None  # the connection that carries the link now
        self.opened = False
        self.over = False  # lost or closed
        self.forgotten = False
        self._endpoint = endpoint

    def send(self, frames: Iterable[Buffer]) -> None:
        with self._endpoint.lock, UNINTERRUPTED:
            if self.over:
                raise ChannelClosedError(f"the connection to {self.party or 'a peer'} is gone")
            self.link.put(frames)
            self._endpoint.pump(self)

    @property
    def pending(self) -> int:
        return self.link.pending

    @property
    def round_trip(self) -> float | None:
        return self.link.round_trip

    def close(self) -> None:
        with self._endpoint.lock:
            self._endpoint.forget(self)


class LinkEndpoint(Endpoint):
    """The base of both sides.

    Args:
        max_pending, grace: see `Link`.
        clock: a monotonic clock in seconds.
        keep: whether a thread serves the links while the owner makes no call.
    """

    def __init__(
        self, max_pending: int, grace: float, clock: Callable[[], float], *, keep: bool
    ) -> None:
        self.lock = threading.RLock()
        self._max_pending, self._grace, self._clock = max_pending, grace, clock
        self._events: deque[Event] = deque()
        self._deaf = False  # closing: frames are dropped
        self._open = True
        self._worked_at = clock()
        self._broken: BaseException | None = None
        self._leaving = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="heterofed-link", daemon=True)
        self._keeps = keep

    # The contract

    def poll(self, timeout: float) -> list[Event]:
        deadline = self._clock() + timeout
        while True:
            with self.lock:
                self._raise_if_broken()
                now = self._clock()
                # Do not wait if the thread has read something meanwhile.
                self._turn(0.0 if self._events else max(0.0, min(deadline, self._due(now)) - now))
                events = self._deliver()
            if events or self._clock() >= deadline:
                return events

    def flush(self, timeout: float) -> bool:
        deadline = self._clock() + timeout
        while True:
            with self.lock:
                self._raise_if_broken()
                self._turn(0.0)
                if all(self._is_idle(channel) for channel in self._channels()):
                    return True
                now = self._clock()
                if now >= deadline:
                    return False
                self._turn(max(0.0, min(deadline, self._due(now)) - now))

    def close(self, linger: float = 0.0) -> None:
        with self.lock:
            if not self._open or self._deaf:
                return
            self._deaf = True
            self._events.clear()
            self._leaving.set()
        if self._keeper.is_alive():
            self._keeper.join(10)
        with self.lock:
            deadline = self._clock() + linger
            try:
                for channel in self._channels():
                    channel.link.end()
                    self.pump(channel)
                # The peer closes the connection once it has read all frames.
                while self._channels() and (left := deadline - self._clock()) > 0:
                    self._turn(min(left, CLOSE_SECONDS))
            finally:
                for channel in self._channels():
                    self._end(channel)
                self._open = False
                self._shut(max(0.0, deadline - self._clock()))

    # One round of work

    def _turn(self, wait: float) -> bool:
        """Poll the connections once and process their events.

        Args:
            wait: the longest time to wait for an event, in seconds.

        Returns:
            Whether there was an event.
        """
        if not self._open:
            time.sleep(wait)
            return False
        happened = self._listen(wait)
        for event in happened:
            self._happened(event, self._clock())
        now = self._clock()
        for channel in self._channels():
            ends = channel.link.gives_up_at()
            if ends is not None and now >= ends:
                self._lose(channel, LostReason.DISCONNECTED)
        self._tend(now)
        for channel in self._channels():
            self.pump(channel)
        self._worked_at = now
        return bool(happened)

    def _due(self, now: float) -> float:
        """Return the time of the next deadline."""
        due = now + 60.0
        for channel in self._channels():
            for at in (channel.link.gives_up_at(), channel.link.beats_at()):
                due = due if at is None else min(due, at)
        return due

    def _keep(self) -> None:
        while not self._leaving.wait(KEEP_SECONDS):
            if not self.lock.acquire(blocking=False):
                continue  # the owner is in a method of the endpoint
            try:
                if not self._deaf and self._clock() - self._worked_at >= KEEP_SECONDS:
                    turns = 1
                    while self._turn(0.0) and turns < KEEP_TURNS:
                        turns += 1
            except BaseException as error:
                self._broken = error  # raised in the owner's next call
                return
            finally:
                self.lock.release()

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken

    def _deliver(self) -> list[Event]:
        events: list[Event] = []
        while self._events and len(events) < MAX_EVENTS:
            event = self._events.popleft()
            channel = event.channel
            if isinstance(channel, LinkChannel) and not channel.forgotten:
                events.append(event)
                if isinstance(event, Received):
                    channel.link.take()
        if events:
            for channel in self._channels():
                self.pump(channel)
        return events

    def pump(self, channel: LinkChannel) -> None:
        """Send the link's outgoing frames over its connection."""
        now = self._clock()
        if channel.inner is None or channel.over or channel.link.is_silent(now):
            return
        with UNINTERRUPTED:
            if frames := channel.link.outgoing(now):
                # A connection that is about to be lost accepts nothing; the link keeps all frames.
                with contextlib.suppress(ChannelClosedError):
                    channel.inner.send(frames)

    def _take_in(self, channel: LinkChannel, frame: Buffer, now: float) -> None:
        """Process a frame that a connection brought for a link."""
        link = channel.link
        try:
            came = link.feed(frame, now)
        except LinkError as error:
            logger.warning("%s: %s", channel.party or "a peer", error)
            self._lose(channel, LostReason.MALFORMED)
            return
        if came is not None and not self._deaf:
            self._announce(channel)
            self._events.append(Received(channel, came))
        elif link.ended:
            self._lose(channel, LostReason.CLOSED)
        elif link.refusal is not None:
            self._lose(channel, _REFUSALS[link.refusal])

    def _announce(self, channel: LinkChannel) -> None:
        if not channel.opened:
            channel.opened = True
            self._events.append(Opened(channel))

    # The end of a link

    def forget(self, channel: LinkChannel) -> None:
        """Handle that the caller closed the channel."""
        channel.forgotten = True
        if not channel.over:
            self._end(channel)

    def _lose(self, channel: LinkChannel, reason: LostReason) -> None:
        """Report the loss of a link, after all frames that arrived."""
        if not channel.over:
            if self._reports(channel) and not self._deaf:
                self._events.append(Lost(channel, reason))
            self._end(channel)

    def _end(self, channel: LinkChannel) -> None:
        channel.over = True
        channel.link.drop()
        if channel.inner is not None:
            channel.inner.close()

    def _is_idle(self, channel: LinkChannel) -> bool:
        return channel.inner is not None and channel.link.idle and channel.inner.pending == 0

    @abstractmethod
    def _channels(self) -> list[LinkChannel]:
        """Return every link that is not over."""

    @abstractmethod
    def _listen(self, wait: float) -> list[Event]:
        """Return the events of the connections, after waiting for one up to `wait` seconds."""

    @abstractmethod
    def _happened(self, event: Event, now: float) -> None:
        """Process one event of a connection."""

    @abstractmethod
    def _tend(self, now: float) -> None:
        """Act on the deadlines that have passed."""

    @abstractmethod
    def _reports(self, channel: LinkChannel) -> bool:
        """Return whether the loss of this link is to be reported to the caller."""

    @abstractmethod
    def _shut(self, linger: float) -> None:
        """Close the transport below."""


def say(inner: Channel, frame: bytes) -> None:
    """Send a greeting; on a lost connection nothing is sent, because its `Lost` event follows."""
    with contextlib.suppress(ChannelClosedError):
        inner.send([frame])
