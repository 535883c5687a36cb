"""Counts the seconds of blocks of work in a party's account; every batch has several of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from heterofed.reporting.costs import Account, Direction


class Timed(Protocol):
    """The attributes of a party that these blocks use."""

    clock: Callable[[], float]
    account: Account
    counts: Account
    phase: str


class Computing:
    """A block of this party's own work, without the time that is counted within it.

    Args:
        party: the party that works.
    """

    __slots__ = ("_began", "_counted", "_party")

    def __init__(self, party: Timed) -> None:
        self._party = party
        self._began = self._counted = 0.0

    def __enter__(self) -> None:
        self._began, self._counted = self._party.clock(), self._party.counts.counted

    def __exit__(self, *_error: object) -> None:
        party = self._party
        within = party.counts.counted - self._counted
        party.account.computed(party.phase, max(0.0, party.clock() - self._began - within))


class Encoding:
    """A block that encodes or decodes messages of a peer.

    Args:
        party: the party that works.
        peer: the name of the peer.
        direction: whether the messages are sent or received.
    """

    __slots__ = ("_began", "_direction", "_party", "_peer")

    def __init__(self, party: Timed, peer: str, direction: Direction) -> None:
        self._party, self._peer, self._direction = party, peer, direction
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = self._party.clock()

    def __exit__(self, kind: object, *_error: object) -> None:
        if kind is None:
            seconds = self._party.clock() - self._began
            self._party.account.encoded(self._party.phase, self._peer, self._direction, seconds)
