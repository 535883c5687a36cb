"""How long a party bears the silence of its peers, and how slow they may be.

Knows a party by what it shows: its timeouts, its peers, its phase. It reads no clock.
"""

from __future__ import annotations

import math
from typing import Protocol

from heterofed.messaging import aborts
from heterofed.messaging.peer import PSI_WAITING, Peer, Timeouts, holding_limit

LEAST_RATE = 64 << 10
"""Bytes a second that a peer must take, or send, of what is on its way, beyond the silence that it
is allowed.
"""


class Waits(Protocol):
    """A party that waits."""

    timeouts: Timeouts
    peers: dict[str, Peer]
    phase: str


class Deadlines:
    """The deadlines of one party.

    Args:
        party: who waits; what it shows is looked up each time.
    """

    def __init__(self, party: Waits) -> None:
        self._party = party

    @property
    def patience(self) -> float:
        """Seconds of silence of one that may be at work and reads or sends what is large."""
        timeouts = self._party.timeouts
        return max(timeouts.moving, timeouts.calculation or math.inf)

    def transfer(self, peer: Peer, began: float, size: int) -> float:
        """Until when `size` bytes may be on their way to or from a peer, since `began`."""
        ends = began + self.patience + size / LEAST_RATE
        return min(ends, self._of_the_others(peer, began))

    def _of_the_others(self, peer: Peer, began: float) -> float:
        """Until when the others bear that `peer` holds this party up, since `began`."""
        party, calculation = self._party, self._party.timeouts.calculation
        told = [each.told for each in party.peers.values() if each is not peer]
        limit = holding_limit(1 + len(party.peers), calculation)
        if not told or not limit:
            return math.inf
        return max(min(told) + limit, began + calculation)

    def check_silence(self, peer: Peer, computing: bool, now: float) -> None:
        """Check that a peer without mail has not been silent for too long.

        Args:
            peer: the peer.
            computing: whether it may be running user code or heavy compute.
            now: by the party's clock.

        Raises:
            PeerTimeoutError: it has.
        """
        if peer.inbox:
            return
        timeouts, phase = self._party.timeouts, self._party.phase
        if peer.decoder.moving:
            began, stuck = peer.message_began, now - peer.byte_came
            if stuck > timeouts.moving:
                what = "stopped in the middle of a message"
                raise aborts.silent(peer.name, phase, stuck, what)
            if now > self.transfer(peer, began, peer.decoder.size):
                raise aborts.silent(peer.name, phase, now - began, "been sending one message")
            return
        limit = timeouts.calculation if computing else timeouts.schedule
        silence = now - peer.turn_began
        if silence > limit and (limit or not computing):
            raise aborts.silent(peer.name, phase, silence, "said nothing")

    def check_waiting(self, peer: Peer, began: float, now: float) -> None:
        """A peer that only says whom it waits for may do so for long, and not for ever.

        Args:
            peer: the peer.
            began: when this party began to wait for it.
            now: by the party's clock.

        Raises:
            PeerTimeoutError: it did so for too long.
        """
        limit, phase = self._party.timeouts.waiting, self._party.phase
        if limit and phase == "psi":
            limit = max(limit, PSI_WAITING)
        if limit and peer.host_waits_for and now - max(began, peer.moved_on) > limit:
            what = f"said only that it waits for {peer.host_waits_for}"
            raise aborts.silent(peer.name, phase, now - max(began, peer.moved_on), what)
