"""Gives up a party that sends every message in time, and so little in each that all take years."""

from __future__ import annotations

import math

from heterofed.errors import PeerTimeoutError
from heterofed.messaging.peer import Peer
from heterofed.runs.run import Run

VALUES_PER_SECOND = 10
"""The least number of tags or other values per second that a party must compute and send."""

FILTER_IDS_PER_SECOND = 1000
"""The least number of ids per second whose part of a filter a party must send."""


def values_pace(run: Run, peer: Peer, what: str, count: int) -> Pace:
    """Return the time for values that a party computes and sends; see `Pace`."""
    return Pace(run, peer, what, count, VALUES_PER_SECOND)


def filter_pace(run: Run, owner: Peer, count: int) -> Pace:
    """Return the time in which the owner of a stored set sends its filter."""
    return Pace(run, owner, f"sent the filter of its {count} ids", count, FILTER_IDS_PER_SECOND)


class Pace:
    """The time that a party has for something that takes many messages.

    Args:
        run: this run.
        peer: the party.
        what: what it has not done if its time is over, for the error.
        count: the number of its values.
        rate: the least number of them per second, after one `calculation_timeout`.
    """

    def __init__(self, run: Run, peer: Peer, what: str, count: int, rate: float) -> None:
        self._clock, self._peer, self._what = run.party.clock, peer, what
        self._began, silence = self._clock(), run.plan.calculation_timeout
        self._most = silence + count / rate if silence else math.inf

    def check(self) -> None:
        """Check that the time is not over.

        Raises:
            PeerTimeoutError: it is.
        """
        seconds = self._clock() - self._began
        if seconds > self._most:
            raise PeerTimeoutError(
                f"{self._peer.name} has not {self._what} in {seconds:.0f} s (phase psi), though"
                f" {self._most:.0f} s are enough for any machine; see its log",
                party=self._peer.name,
            )
