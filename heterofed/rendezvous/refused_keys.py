"""The keys that the Host's transport has turned away, for its log.

A key that the task file does not list is refused by `transport.zeromq.zap`, and a party whose name
is not expected by `rendezvous.admission`. This module only remembers and tells which keys knocked.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from heterofed.identity.keys import fingerprint
from heterofed.transport.rate_limit import RateLimit

logger = logging.getLogger("heterofed")

MAX_KEPT = 64
"""Keys that are remembered: whoever floods us with new ones takes no more memory."""

LINES_A_MINUTE = 6

AGAIN_SECONDS = 600.0
"""After so long a key that still knocks is told of again."""


class Strangers:
    """Notes refused keys, and tells of them in the log: of each rarely, of all at a bounded rate.

    Args:
        task: the task whose file does not list them.
        clock: seconds that only go up.
    """

    def __init__(self, task: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._task, self._clock = task, clock
        self._told: dict[str, float] = {}
        self._lines = RateLimit(LINES_A_MINUTE)

    @property
    def fingerprints(self) -> list[str]:
        """Of the keys that were told of, in the order in which they came first."""
        return list(self._told)

    def note(self, key: str, address: str) -> None:
        """Note that a key was refused; called by the thread that answers handshakes.

        Args:
            key: the public key, in Z85.
            address: where it came from.
        """
        now, shown = self._clock(), fingerprint(key)
        since = now - self._told.get(shown, -math.inf)
        room = shown in self._told or len(self._told) < MAX_KEPT
        if since < AGAIN_SECONDS or not room or not self._lines.allow(None, now):
            return
        self._told[shown] = now
        logger.warning("refused %s", stranger(shown, self._task, address))


def stranger(shown: str, task: str, address: str = "") -> str:
    """What to do about a refused key, given its fingerprint."""
    origin = f" from {address}" if address else ""
    return (
        f"a key{origin} that the file of task {task!r} does not list: {shown}. If a partner has a"
        " new key, compare that with `heterofed keys show` there; if it is the same, put the new"
        " key into the task file, which all parties then accept anew"
    )
