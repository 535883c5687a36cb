"""Limits how often a party may connect.

Connections are counted per proven party, and all unproven ones together. The cost of a single
connection is bounded elsewhere.
"""

from __future__ import annotations

from collections import deque

MAX_CONNECTIONS_PER_MINUTE = 1200
"""The most connections per minute of one party.

An honest party connects less often, even over a network that breaks ten times per second. Each
connection costs a listener at most a few milliseconds.
"""

PERIOD_SECONDS = 60.0

FIRST_MESSAGE_SECONDS = 15.0
"""The longest time in seconds that a connection may send nothing before it is closed."""


class RateLimit:
    """Counts the connections of each party within the last minute.

    Args:
        most: the most connections per minute of one party.
    """

    def __init__(self, most: int = MAX_CONNECTIONS_PER_MINUTE) -> None:
        self._most = most
        self._came: dict[str | None, deque[float]] = {}

    def allow(self, party: str | None, now: float) -> bool:
        """Count a connection of a party (None for an unproven one).

        Returns:
            Whether the connection is within the limit.
        """
        came = self._came.setdefault(party, deque())
        while came and now - came[0] > PERIOD_SECONDS:
            came.popleft()
        if len(came) >= self._most:
            return False
        came.append(now)
        return True
