"""When a wait is worth another line: soon at first, and then ever more rarely."""

from __future__ import annotations

NOTICE_SECONDS = 10.0
"""After so long a wait is told of first."""

MOST_SECONDS = 300.0
"""Between two lines at most."""


class Notices:
    """Says when to tell of a wait: after 10 s, 20 s, 40 s and so on, then every five minutes."""

    def __init__(self, first: float = NOTICE_SECONDS) -> None:
        self._first = self._next = first
        self._last = 0.0

    def due(self, seconds: float) -> bool:
        """Whether to tell now of a wait of so many seconds; fewer than before: of another wait."""
        if seconds < self._last:
            self._next = self._first
        self._last = seconds
        if seconds < self._next:
            return False
        while self._next <= seconds:
            self._next += min(self._next, MOST_SECONDS)
        return True
