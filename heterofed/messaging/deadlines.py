"""Decides how long the peers of a party may be silent and how slow they may be.

This module uses only the party's timeouts, peers and phase, and reads no clock.
"""

from __future__ import annotations

import math
from typing import Protocol

from heterofed.messaging import aborts
from heterofed.messaging.peer import PSI_WAITING, Peer, Timeouts, holding_limit

LEAST_RATE = 64 << 10
"""The least rate, in bytes per second, at which a peer must read or send a large message.

The time for the message is added to the silence that the peer is allowed.
"""


class Waits(Protocol):
    """The attributes of a party that `Deadlines` uses."""

    timeouts: Timeouts
    peers: dict[str, Peer]
    phase: str


class Deadlines:
    """The deadlines of one party.

    Args:
        party: the party that waits; its attributes are read at each call.
    """

    def __init__(self, party: Waits) -> None:
        self._party = party

    @property
    def patience(self) -> float:
        """The seconds of silence allowed to a peer that may be computing during a large
        transfer.
        """
        timeouts = self._party.timeouts
        return max(timeouts.moving, timeouts.calculation or math.inf)

    def transfer(self, peer: Peer, began: float, size: int) -> float:
        """Return the deadline for the transfer of `size` bytes, which started at `began`."""
        ends = began + self.patience + size / LEAST_RATE
        return min(ends, self._of_the_others(peer, began))

    def _of_the_others(self, peer: Peer, began: float) -> float:
        """Return the time until which the other peers tolerate that `peer` delays this party."""
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
            computing: whether the peer may be running user code or heavy computation.
            now: the current time of the party's clock.

        Raises:
            PeerTimeoutError: the peer has been silent for too long.
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
        """Check that a peer has not reported for too long that it waits for another party.

        Args:
            peer: the peer.
            began: the time at which this party began to wait for it.
            now: the current time of the party's clock.

        Raises:
            PeerTimeoutError: the peer has reported nothing else for too long.
        """
        limit, phase = self._party.timeouts.waiting, self._party.phase
        if limit and phase == "psi":
            limit = max(limit, PSI_WAITING)
        if limit and peer.host_waits_for and now - max(began, peer.moved_on) > limit:
            what = f"said only that it waits for {peer.host_waits_for}"
            raise aborts.silent(peer.name, phase, now - max(began, peer.moved_on), what)
