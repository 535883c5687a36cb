"""The listening side of the reliable transport: knows a link again by its token.

And only over connections that are proven to be the same party's as the link's first one.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections import deque
from collections.abc import Callable

from heterofed.errors import LinkError
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
from heterofed.transport.flow_control import WINDOW
from heterofed.transport.reliable.endpoint import FINAL, LinkChannel, LinkEndpoint, say
from heterofed.transport.reliable.handshake import Hello, Refusal, encode_refusal
from heterofed.transport.reliable.link import GRACE_SECONDS, Link

logger = logging.getLogger("heterofed")

MAX_GONE = 1024
"""Ended links that are remembered: their frames are not taken twice."""

PARTY_LINKS = 4
"""Links of one proven party at a time: one that works, and others whose end was not noticed yet.

A link that is over keeps its place until the caller has got all of it.
"""


class ReliableListener(LinkEndpoint):
    """The listening side, on top of another listener.

    Args:
        listener: the other transport's endpoint, closed with this one. It should keep twice as many
            connections as there may be links: one that died unnoticed stands beside its successor.
        max_channels: links that are kept, of a proven party `PARTY_LINKS`; further ones are told
            `FULL`.
        max_pending: bytes that may wait for one peer.
        first_frames: how many frames of a new link may wait until the caller has taken one.
        grace: seconds that a link may be without a connection; see `reliable.GRACE_SECONDS`.
    """

    def __init__(
        self,
        listener: Endpoint,
        *,
        max_channels: int = MAX_CHANNELS,
        max_pending: int = MAX_PENDING_BYTES,
        first_frames: int = WINDOW,
        grace: float = GRACE_SECONDS,
        _clock: Callable[[], float] = time.monotonic,
        _keep: bool = True,
    ) -> None:
        super().__init__(max_pending, grace, _clock, keep=_keep)
        self._listener = listener
        self._max_channels, self._first_frames = max_channels, first_frames
        self._links: list[LinkChannel] = []
        self._gone: deque[bytes] = deque(maxlen=MAX_GONE)
        self._by_inner: dict[Channel, LinkChannel] = {}
        self._newcomers: set[Channel] = set()  # connections that have said nothing yet
        if self._keeps:
            self._keeper.start()

    @property
    def address(self) -> str:
        """Where the other listener really listens."""
        return str(getattr(self._listener, "address", ""))

    def _channels(self) -> list[LinkChannel]:
        return list(self._links)

    def _listen(self, wait: float) -> list[Event]:
        return self._listener.poll(wait)

    def _happened(self, event: Event, now: float) -> None:
        inner = event.channel
        channel = self._by_inner.get(inner)
        match event:
            case Opened():
                self._newcomers.add(inner)
            case Received(_, frame) if inner in self._newcomers:
                self._newcomers.remove(inner)
                self._greet(inner, frame, now)
            case Received(_, frame) if channel is not None:
                self._take_in(channel, frame, now)
            case Lost(_, reason) if channel is not None:
                del self._by_inner[inner]
                channel.inner = None
                if reason in FINAL:
                    self._lose(channel, reason)
                else:
                    logger.debug("the connection to %s broke", channel.party or "a peer")
                    channel.link.down(now)
            case _:
                pass  # of a connection that this side has left

    def _greet(self, inner: Channel, frame: Buffer, now: float) -> None:
        """The first frame of a connection."""
        try:
            hello = Hello.decode(frame)
        except LinkError as error:
            logger.warning("turned %s away: %s", inner.party or "a peer", error)
            inner.close()
            return
        channel = self._known(hello.token, inner.party)
        if channel is None:
            refusal = self._refusal(hello, inner.party)
            if refusal is not None or self._deaf:
                say(inner, encode_refusal(refusal or Refusal.UNKNOWN))
                inner.close()
                return
            link = Link(now, max_pending=self._max_pending, grace=self._grace)
            channel = LinkChannel(self, link, inner.party, hello.token, now)
            self._links.append(channel)
        elif channel.inner is not None:
            # Its end will be noticed later, or never: the newer one is the living one.
            del self._by_inner[channel.inner]
            channel.inner.close()
        channel.inner = inner
        self._by_inner[inner] = channel
        try:
            say(inner, channel.link.welcome(hello, now))
        except LinkError as error:
            logger.warning("%s: %s", channel.party or "a peer", error)
            self._lose(channel, LostReason.MALFORMED)

    def _known(self, token: bytes, party: str | None) -> LinkChannel | None:
        """The link of this token; all are compared, so that the time tells nothing of them."""
        found = None
        for channel in self._links:
            if hmac.compare_digest(channel.token, token) and channel.party == party:
                found = channel
        return found

    def _refusal(self, hello: Hello, party: str | None) -> Refusal | None:
        if hello.resumes or hello.token in self._gone:
            return Refusal.UNKNOWN
        if party is not None:
            # Proven, and back without its link: it was started anew.
            for channel in self._channels():
                if channel.party == party and channel.link.is_down:
                    self._lose(channel, LostReason.DISCONNECTED)
        placed = self._placed()
        mine = sum(channel.party == party for channel in placed)
        full = len(placed) >= self._max_channels or (party is not None and mine >= PARTY_LINKS)
        return Refusal.FULL if full else None

    def _placed(self) -> set[Channel]:
        """Links that take up a place: those that are there, or of which something waits here."""
        return {*self._links, *(event.channel for event in self._events)}

    def _take_in(self, channel: LinkChannel, frame: Buffer, now: float) -> None:
        super()._take_in(channel, frame, now)
        if channel.link.untouched > self._first_frames:
            logger.warning("%s said too much at once", channel.party or "a peer")
            self._lose(channel, LostReason.MALFORMED)

    def _tend(self, now: float) -> None:
        for channel in self._channels():
            # One that never said anything is nobody's, and goes as quietly as it came.
            if not channel.opened and now - channel.began_at > self._grace:
                self._end(channel)

    def _reports(self, channel: LinkChannel) -> bool:
        return channel.opened

    def _end(self, channel: LinkChannel) -> None:
        if channel.inner is not None:
            self._by_inner.pop(channel.inner, None)
        self._links.remove(channel)
        self._gone.append(channel.token)
        super()._end(channel)

    def _shut(self, linger: float) -> None:
        self._listener.close(linger)
