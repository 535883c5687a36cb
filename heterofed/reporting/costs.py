"""Counts what a task costs one party: messages, bytes and seconds by phase, party and direction.

Callers measure and pass the numbers in. Every second is counted once: as waiting, as encoding
(converting and checking messages and tensors), or as computing in hooks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from heterofed.reporting.egress import Egress

Direction = Literal["sent", "received", "own"]

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
    """

    def __init__(self, own: str) -> None:
        self.own = own
        self.rows: dict[tuple[str, str, Direction], Cost] = defaultdict(Cost)
        self.counted = self.compute = self.encode = 0.0
        self.waits: dict[str, float] = defaultdict(float)
        self.egress = Egress()

    def computed(self, phase: str, seconds: float) -> None:
        """Count seconds that this party spent in hooks."""
        self.rows[phase, self.own, "own"].compute += seconds
        self.compute += seconds
        self.counted += seconds

    def encoded(self, phase: str, party: str, direction: Direction, seconds: float) -> None:
        """Count seconds that this party spent on encoding or decoding."""
        self.rows[phase, party, direction].encode += seconds
        self.encode += seconds
        self.counted += seconds

    def waited(self, phase: str, party: str, direction: Direction, seconds: float) -> None:
        """Count seconds that this party spent waiting."""
        self.rows[phase, party, direction].wait += seconds
        self.waits[party] += seconds
        self.counted += seconds

    def moved(
        self, phase: str, party: str, direction: Direction, size: int, *, messages: int
    ) -> None:
        """Count messages that were sent or received."""
        cost = self.rows[phase, party, direction]
        cost.bytes += size
        cost.messages += messages

    def reported(self, phase: str, party: str, seconds: float) -> None:
        """Count seconds that another party reports of its own hooks."""
        self.rows[phase, party, "received"].compute += seconds

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
