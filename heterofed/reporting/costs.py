"""What a task costs one party: messages, bytes and seconds, by phase, party and direction.

Plain numbers; whoever measures passes them in. Every second is counted once: as waiting, as
encoding (bytes to tensors and back, with their checks) or as computing in hooks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from heterofed.reporting.egress import Outbound

Direction = Literal["sent", "received", "own"]

COLUMNS = ("phase", "party", "direction", "messages", "bytes", "encode_ms", "wait_ms", "compute_ms")


@dataclass(slots=True)
class Cost:
    """What one direction of one party's mail cost in one phase.

    Attributes:
        messages, bytes: how much of it; bytes with headers and framing.
        encode: seconds in which this party turned it into bytes, or back, and checked it.
        wait: seconds in which this party could do nothing but wait: for mail to come, or for the
            other one to read.
        compute: seconds in hooks: this party's own, or what the other one reported of its own.
    """

    messages: int = 0
    bytes: int = 0
    encode: float = 0.0
    wait: float = 0.0
    compute: float = 0.0


class Account:
    """The costs of a task so far.

    Args:
        own: name of this party, for what it computes itself.

    Attributes:
        rows: by (phase, party, direction).
        counted: all seconds that are in `rows` as this party's.
        compute, encode: of these, what it computed and encoded.
        waits: of these, what it waited, by party.
        outbound: what has left this party, by kind.
    """

    def __init__(self, own: str) -> None:
        self.own = own
        self.rows: dict[tuple[str, str, Direction], Cost] = defaultdict(Cost)
        self.counted = self.compute = self.encode = 0.0
        self.waits: dict[str, float] = defaultdict(float)
        self.outbound = Outbound()

    def computed(self, phase: str, seconds: float) -> None:
        """Note own work."""
        self.rows[phase, self.own, "own"].compute += seconds
        self.compute += seconds
        self.counted += seconds

    def encoded(self, phase: str, party: str, direction: Direction, seconds: float) -> None:
        """Note time spent on turning mail into bytes, or back."""
        self.rows[phase, party, direction].encode += seconds
        self.encode += seconds
        self.counted += seconds

    def waited(self, phase: str, party: str, direction: Direction, seconds: float) -> None:
        """Note time spent on nothing."""
        self.rows[phase, party, direction].wait += seconds
        self.waits[party] += seconds
        self.counted += seconds

    def moved(
        self, phase: str, party: str, direction: Direction, size: int, *, messages: int
    ) -> None:
        """Note mail."""
        cost = self.rows[phase, party, direction]
        cost.bytes += size
        cost.messages += messages

    def reported(self, phase: str, party: str, seconds: float) -> None:
        """Note what another party says that it has worked; not this party's seconds."""
        self.rows[phase, party, "received"].compute += seconds

    def table(self) -> list[dict[str, str | int | float]]:
        """The rows as `comm.csv` has them, by phase in the order in which these began."""
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
    """One line for people: `own compute 55 %, waiting for shop 31 %, encoding 4 %`."""
    if seconds <= 0:
        return ""
    parts = [("own compute", compute)]
    parts += [(f"waiting for {party}", each) for party, each in waits.items()]
    parts += [("encoding", encode)]
    shown = [(name, 100 * each / seconds) for name, each in parts]
    shown.sort(key=lambda part: -part[1])
    return ", ".join(f"{name} {share:.0f} %" for name, share in shown if share >= 0.5)
