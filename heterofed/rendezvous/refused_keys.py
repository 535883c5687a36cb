"""Logs the keys that the Host's transport has refused.

`transport.zeromq.zap` refuses a key that the task file does not list, and `rendezvous.admission`
refuses a party with an unexpected name. This module only records and logs the refused keys.
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
"""The most keys that are recorded, so that a flood of new keys does not use up memory."""

LINES_A_MINUTE = 6

AGAIN_SECONDS = 600.0
"""The seconds after which a key that still tries to connect is logged again."""


class Strangers:
    """Records refused keys, and logs each of them rarely and all of them at a limited rate.

    Args:
        task: the task whose file does not list the keys.
        clock: returns a monotonic time in seconds.
    """

    def __init__(self, task: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._task, self._clock = task, clock
        self._told: dict[str, float] = {}
        self._lines = RateLimit(LINES_A_MINUTE)

    @property
    def fingerprints(self) -> list[str]:
        """Return the fingerprints of the logged keys, in the order in which they first came."""
        return list(self._told)

    def note(self, key: str, address: str) -> None:
        """Record that a key was refused; the thread that answers handshakes calls this.

        Args:
            key: the public key, in Z85.
            address: the address from which it came.
        """
        now, shown = self._clock(), fingerprint(key)
        since = now - self._told.get(shown, -math.inf)
        room = shown in self._told or len(self._told) < MAX_KEPT
        if since < AGAIN_SECONDS or not room or not self._lines.allow(None, now):
            return
        self._told[shown] = now
        logger.warning("refused %s", stranger(shown, self._task, address))


def stranger(shown: str, task: str, address: str = "") -> str:
    """Return a sentence on what to do about a refused key with this fingerprint."""
    origin = f" from {address}" if address else ""
    return (
        f"a key{origin} that the file of task {task!r} does not list: {shown}. If a partner has a"
        " new key, compare that with `heterofed keys show` there; if it is the same, put the new"
        " key into the task file, which all parties then accept anew"
    )
