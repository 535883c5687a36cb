"""The listening side of the reliable transport: it recognises a link by its token.

It continues a link only over connections of the party that made the link's first one.
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
"""The number of ended links whose tokens are remembered, so that they are not opened again."""

PARTY_LINKS = 4
"""The most links of one proven party at a time: one in use, and others not yet known to be lost.

A link that is over counts until the caller has received all of its frames.
"""


class ReliableListener(LinkEndpoint):
    """The listening side, on top of another listener.

    Args:
        listener: the other transport's endpoint, which is closed with this one. It should keep
            twice as many connections as there may be links, because a broken connection may coexist
            with its successor until the break is noticed. max_channels: the most links that are
            kept; further ones are refused (`FULL`), as are more than `PARTY_LINKS` of one proven
            party. max_pending: the most bytes that may wait for one peer. first_frames: the most
            frames of a new link that may wait until the caller has taken one. grace: the seconds
            that a link may be without a connection; see `link.GRACE_SECONDS`.
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
        self._newcomers: set[Channel] = set()  # connections that have sent nothing yet
        if self._keeps:
            self._keeper.start()

    @property
    def address(self) -> str:
        """The address at which the other listener listens."""
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
                pass  # it belongs to a connection that this side has closed

    def _greet(self, inner: Channel, frame: Buffer, now: float) -> None:
        """Process the first frame of a connection."""
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
            # The older connection is broken, although this was not noticed: use the newer one.
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
        """Return the link of a token; all tokens are compared, so that the time reveals none."""
        found = None
        for channel in self._links:
            if hmac.compare_digest(channel.token, token) and channel.party == party:
                found = channel
        return found

    def _refusal(self, hello: Hello, party: str | None) -> Refusal | None:
        if hello.resumes or hello.token in self._gone:
            return Refusal.UNKNOWN
        if party is not None:
            # A proven party that comes back without its link was restarted.
            for channel in self._channels():
                if channel.party == party and channel.link.is_down:
                    self._lose(channel, LostReason.DISCONNECTED)
        placed = self._placed()
        mine = sum(channel.party == party for channel in placed)
        full = len(placed) >= self._max_channels or (party is not None and mine >= PARTY_LINKS)
        return Refusal.FULL if full else None

    def _placed(self) -> set[Channel]:
        """Return the links that count: open ones, and ones with events that were not taken yet."""
        return {*self._links, *(event.channel for event in self._events)}

    def _take_in(self, channel: LinkChannel, frame: Buffer, now: float) -> None:
        super()._take_in(channel, frame, now)
        if channel.link.untouched > self._first_frames:
            logger.warning(
                "%s sent more first frames than the listener accepts; its link is closed",
                channel.party or "a peer",
            )
            self._lose(channel, LostReason.MALFORMED)

    def _tend(self, now: float) -> None:
        for channel in self._channels():
            # A link whose peer never sent anything is closed without an event.
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
