"""How often a peer may come: connections are counted per party, where they prove one.

What a connection may cost is bounded elsewhere; this bounds how many a minute are looked at.
"""

from __future__ import annotations

from collections import deque

VISITS = 1200
"""Connections a minute. An honest party comes less often, even over a network that breaks every
tenth of a second, and each costs this machine a few milliseconds at most.
"""

PERIOD_SECONDS = 60.0

VISIT_SECONDS = 15.0
"""How long a connection may say nothing before it is closed."""


class Visits:
    """Who came when, within the last minute."""

    def __init__(self, most: int = VISITS) -> None:
        self._most = most
        self._came: dict[str | None, deque[float]] = {}

    def allow(self, party: str | None, now: float) -> bool:
        """Count a visit of a party (None: of anybody unproven); False where it is one too many."""
        came = self._came.setdefault(party, deque())
        while came and now - came[0] > PERIOD_SECONDS:
            came.popleft()
        if len(came) >= self._most:
            return False
        came.append(now)
        return True
