"""Decides when to log that a party is waiting: soon at first, and then less and less often."""

from __future__ import annotations

NOTICE_SECONDS = 10.0
"""The number of seconds after which a wait is first reported."""

MOST_SECONDS = 300.0
"""The most seconds between two reports of one wait."""


class Notices:
    """Decides when to report a wait: after 10 s, 20 s, 40 s and so on, then every five minutes."""

    def __init__(self, first: float = NOTICE_SECONDS) -> None:
        self._first = self._next = first
        self._last = 0.0

    def due(self, seconds: float) -> bool:
        """Return whether to report a wait of this many seconds now.

        If the number is smaller than in the last call, another wait has begun.
        """
        if seconds < self._last:
            self._next = self._first
        self._last = seconds
        if seconds < self._next:
            return False
        while self._next <= seconds:
            self._next += min(self._next, MOST_SECONDS)
        return True
