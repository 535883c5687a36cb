"""The connecting side of the reliable transport: it reconnects when its connection breaks."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Protocol

from heterofed.errors import HeteroFedError
from heterofed.transport.base import (
    MAX_PENDING_BYTES,
    Channel,
    Event,
    Lost,
    LostReason,
    Opened,
    Received,
)
from heterofed.transport.reliable.endpoint import FINAL, LinkChannel, LinkEndpoint, say
from heterofed.transport.reliable.handshake import TOKEN_BYTES
from heterofed.transport.reliable.link import GRACE_SECONDS, Link

logger = logging.getLogger("heterofed")

_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds before each attempt; the last one repeats


class Connection(Protocol):
    """An endpoint with one channel that connects once, such as a transport's `connect` returns."""

    @property
    def channel(self) -> Channel:
        """The one channel."""

    def poll(self, timeout: float) -> list[Event]:
        """See `Endpoint`."""

    def close(self, linger: float = 0.0) -> None:
        """See `Endpoint`."""


class ReliableConnector(LinkEndpoint):
    """The connecting side, with one `channel`.

    Args:
        dial: opens one connection of the other transport; it is called for each attempt. Only its
            first call may raise an error.
        max_pending, grace: as for `ReliableListener`.

    Attributes:
        redials: the number of connections that were made after the first one.
    """

    def __init__(
        self,
        dial: Callable[[], Connection],
        *,
        max_pending: int = MAX_PENDING_BYTES,
        grace: float = GRACE_SECONDS,
        _clock: Callable[[], float] = time.monotonic,
        _keep: bool = True,
    ) -> None:
        super().__init__(max_pending, grace, _clock, keep=_keep)
        self.redials = 0
        self._dial = dial
        self._attempts = 0
        self._dial_at = 0.0
        now, token = self._clock(), secrets.token_bytes(TOKEN_BYTES)
        link = Link(now, max_pending=max_pending, grace=grace)
        self.channel: Channel
        self.channel = self._channel = LinkChannel(self, link, None, token, now)
        self._connection: Connection | None = None
        self._start(dial())
        if self._keeps:
            self._keeper.start()

    def _start(self, connection: Connection) -> None:
        self._connection = connection
        self._channel.inner = connection.channel
        self._channel.party = connection.channel.party
        say(connection.channel, self._channel.link.hello(self._channel.token))

    def _channels(self) -> list[LinkChannel]:
        return [] if self._channel.over else [self._channel]

    def _listen(self, wait: float) -> list[Event]:
        if self._connection is not None:
            return self._connection.poll(wait)
        time.sleep(wait)
        return []

    def _due(self, now: float) -> float:
        due = super()._due(now)
        return min(due, self._dial_at) if self._connection is None and self._channels() else due

    def _happened(self, event: Event, now: float) -> None:
        channel = self._channel
        if event.channel is not channel.inner or channel.over:
            return
        match event:
            case Opened():
                channel.link.up(now)
                self._announce(channel)
            case Received(_, frame):
                self._take_in(channel, frame, now)
                if self._attempts and channel.link.greeted:
                    self.redials += 1
                    self._attempts = 0
            case Lost(_, reason):
                self._hang_up()
                turned_away = reason is LostReason.FULL and not channel.link.confirmed
                if not channel.opened or reason in FINAL or turned_away:
                    self._lose(channel, reason)
                else:
                    channel.link.down(now)
                    self._dial_at = now + _PAUSES[min(self._attempts, len(_PAUSES) - 1)]

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._channel.inner = None

    def _tend(self, now: float) -> None:
        if self._connection is not None or self._channel.over or now < self._dial_at:
            return
        self._attempts += 1
        try:
            self._start(self._dial())
        except HeteroFedError as error:  # for example, no free file descriptor; this may pass
            logger.debug("cannot reconnect: %s", error)
            self._hang_up()
            self._dial_at = now + _PAUSES[-1]

    def _reports(self, channel: LinkChannel) -> bool:  # noqa: ARG002 - there is only one
        return True

    def _end(self, channel: LinkChannel) -> None:
        super()._end(channel)
        self._hang_up()

    def _shut(self, linger: float) -> None:  # noqa: ARG002 - `_end` has closed it
        self._hang_up()
