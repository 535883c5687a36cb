"""Counts what a task costs one party: messages, bytes and seconds by phase, party and direction.

Callers measure and pass the numbers in. Every second is counted once: as waiting, as encoding
(converting and checking messages and tensors), or as computing in hooks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from heterofed.reporting.egress import Egress

Direction = Literal["sent", "received", "own"]
Work = Literal["compute", "encode", "wait", "sent", "received", "elsewhere"]
"""What a measurement is of: seconds of this party, bytes that travelled, or another party's hooks.
"""

LARGE_BYTES = 64 << 10
"""From this size on a message says how fast its link is."""

COLUMNS = ("phase", "party", "direction", "messages", "bytes", "encode_ms", "wait_ms", "compute_ms")


@dataclass(slots=True)
class Cost:
    """The cost of the messages to or from one party in one phase.

    Attributes:
        messages: the number of messages.
        bytes: their bytes, with headers and framing.
        encode: the seconds that this party spent on encoding, decoding and checking them.
        wait: the seconds that this party waited, for messages or for the other party to read.
        compute: the seconds in hooks of this party, or those that the other party reported.
    """

    messages: int = 0
    bytes: int = 0
    encode: float = 0.0
    wait: float = 0.0
    compute: float = 0.0

    def add(self, other: Cost) -> None:
        """Count what another cost has counted, too."""
        self.messages += other.messages
        self.bytes += other.bytes
        self.encode += other.encode
        self.wait += other.wait
        self.compute += other.compute


@dataclass(slots=True)
class PhaseCost:
    """The cost of one phase over all rounds.

    Attributes:
        seconds: the duration in seconds.
        bytes_sent: the number of bytes that this party sent.
        bytes_received: the number of bytes that this party received.
        compute: the seconds that were spent in hooks.
        encode: the seconds that were spent on encoding and decoding messages.
        waits: the seconds that were spent waiting, by party.
    """

    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    compute: float = 0.0
    encode: float = 0.0
    waits: dict[str, float] = field(default_factory=dict)

    @property
    def slowest(self) -> str | None:
        """The party with the longest wait if that took a tenth of the time or more, else None."""
        name = max(self.waits, key=self.waits.__getitem__, default=None)
        return name if name is not None and self.waits[name] >= self.seconds / 10 else None


@dataclass(slots=True)
class Arrival:
    """The large messages that came over one link.

    Attributes:
        bytes: their bytes.
        seconds: the seconds between the first byte and the last byte of each, added up.
    """

    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LinkQuality:
    """What was measured of the link to a party.

    Attributes:
        round_trip: the shortest time in seconds to the party and back, or None.
        bytes_per_second: how fast its large messages came, or None if none came.
    """

    round_trip: float | None = None
    bytes_per_second: float | None = None


def unheard(_work: Work, _party: str, _seconds: float, _size: int) -> None:
    """Take a measurement that nobody asked for."""


class Account:
    """The costs of a task so far.

    Args:
        own: the name of this party.

    Attributes:
        rows: the costs by (phase, party, direction).
        counted: the seconds of this party that are in `rows`.
        compute: the seconds of these that were spent in hooks.
        encode: the seconds of these that were spent on encoding.
        waits: the seconds of these that were spent waiting, by party.
        egress: the messages that this party has sent, by kind.
        arrivals: the large messages that came, by party.
        round_trips: the shortest time in seconds to a party and back, by party, where the
            transport has measured it.
        hear: gets each measurement when it is made: what it is of, the party, seconds and bytes.
    """

    def __init__(self, own: str) -> None:
        self.own = own
        self.rows: dict[tuple[str, str, Direction], Cost] = defaultdict(Cost)
        self.counted = self.compute = self.encode = 0.0
        self.waits: dict[str, float] = defaultdict(float)
        self.egress = Egress()
        self.arrivals: dict[str, Arrival] = defaultdict(Arrival)
        self.round_trips: dict[str, float] = {}
        self.hear: Callable[[Work, str, float, int], None] = unheard

    def computed(self, phase: str, seconds: float) -> None:
        """Count seconds that this party spent in hooks."""
        self.rows[phase, self.own, "own"].compute += seconds
        self.compute += seconds
        self.counted += seconds
        self.hear("compute", self.own, seconds, 0)

    def encoded(self, phase: str, party: str, direction: Direction, seconds: float) -> None:
        """Count seconds that this party spent on encoding or decoding."""
        self.rows[phase, party, direction].encode += seconds
        self.encode += seconds
        self.counted += seconds
        self.hear("encode", party, seconds, 0)

    def waited(self, phase: str, party: str, direction: Direction, seconds: float) -> None:
        """Count seconds that this party spent waiting."""
        self.rows[phase, party, direction].wait += seconds
        self.waits[party] += seconds
        self.counted += seconds
        self.hear("wait", party, seconds, 0)

    def moved(
        self,
        phase: str,
        party: str,
        direction: Direction,
        size: int,
        *,
        messages: int,
        seconds: float = 0.0,
    ) -> None:
        """Count messages that were sent or received, and the seconds of their encoding."""
        cost = self.rows[phase, party, direction]
        cost.bytes += size
        cost.messages += messages
        cost.encode += seconds
        self.encode += seconds
        self.counted += seconds
        if self.hear is not unheard and direction != "own":
            self.hear(direction, party, 0.0, size)
            if seconds:
                self.hear("encode", party, seconds, 0)

    def arrived(self, party: str, size: int, seconds: float) -> None:
        """Count a message of `size` bytes that took so many seconds from first to last byte."""
        if size >= LARGE_BYTES and seconds > 0:
            arrival = self.arrivals[party]
            arrival.bytes += size
            arrival.seconds += seconds

    def answered(self, party: str, round_trip: float | None) -> None:
        """Note the shortest time in seconds in which a party has answered so far."""
        if round_trip is not None:
            known = self.round_trips.get(party, round_trip)
            self.round_trips[party] = min(known, round_trip)

    def links(self) -> dict[str, LinkQuality]:
        """Return what was measured of each link, by party."""
        found = {}
        for party in dict.fromkeys([*self.round_trips, *self.arrivals]):
            came = self.arrivals.get(party)
            speed = came.bytes / came.seconds if came and came.seconds else None
            found[party] = LinkQuality(self.round_trips.get(party), speed)
        return found

    def renamed(self, before: str, now: str) -> None:
        """Book what was counted of a party under another name to its own."""
        for phase, party, direction in [key for key in self.rows if key[1] == before]:
            cost = self.rows.pop((phase, party, direction))  # first, as both names may be the same
            self.rows[phase, now, direction].add(cost)
        waited = self.waits.pop(before, 0.0)
        self.waits[now] += waited
        self.egress.renamed(before, now)

    def reported(self, phase: str, party: str, seconds: float) -> None:
        """Count seconds that another party reports of its own hooks."""
        self.rows[phase, party, "received"].compute += seconds
        self.hear("elsewhere", party, seconds, 0)

    def table(self) -> list[dict[str, str | int | float]]:
        """Return the rows of `comm.csv`, by phase in the order in which the phases began."""
        return [
            dict(
                zip(
                    COLUMNS,
                    (
                        *key,
                        cost.messages,
                        cost.bytes,
                        round(cost.encode * 1e3, 3),
                        round(cost.wait * 1e3, 3),
                        round(cost.compute * 1e3, 3),
                    ),
                    strict=True,
                )
            )
            for key, cost in self.rows.items()
        ]


def shares(seconds: float, compute: float, encode: float, waits: dict[str, float]) -> str:
    """Return a line such as `own compute 55 %, waiting for shop 31 %, encoding 4 %`."""
    if seconds <= 0:
        return ""
    parts = [("own compute", compute)]
    parts += [(f"waiting for {party}", each) for party, each in waits.items()]
    parts += [("encoding", encode)]
    shown = [(name, 100 * each / seconds) for name, each in parts]
    shown.sort(key=lambda part: -part[1])
    return ", ".join(f"{name} {share:.0f} %" for name, share in shown if share >= 0.5)
