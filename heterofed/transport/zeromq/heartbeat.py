"""Defines the interval of heartbeats, and the time after which a connection counts as dead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The heartbeats that detect a dead connection.

    Interval, timeout and `reliable.link.RETURN_SECONDS` together must stay below 15 s.
    """

    interval: float = 3.0
    timeout: float = 9.0
