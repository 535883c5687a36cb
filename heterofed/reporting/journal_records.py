"""The records of a run's journal, `events.jsonl`: one fact per line, as JSON.

Writers and readers share these types. A reader takes a line for hostile until it has decoded, since
whoever can write to a results folder can write anything. Later versions only add kinds and fields,
and a reader skips the kinds that it does not know.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from heterofed.reporting.costs import Work

FILE = "events.jsonl"

MAX_SPANS = 400
"""The most measurements of one batch that are kept."""

Name = Annotated[str, Meta(max_length=300)]
Number = Annotated[float, Meta(ge=-1e300, le=1e300)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Count = Annotated[int, Meta(ge=0, le=2**62)]


class Record(Struct, kw_only=True, omit_defaults=True, tag_field="kind", tag=str.lower):
    """One fact.

    Attributes:
        at: the time at which it was noted, in seconds since 1970 (UTC).
    """

    at: Seconds


class Began(Record):
    """The parties have met. Fields are those of the event `TaskBegan`, without the folder."""

    task: Name
    party: Name
    host: Name
    collaborators: Annotated[list[Name], Meta(max_length=64)]
    run: Name = ""


class Phase(Record):
    """A phase began; see the event `PhaseBegan`."""

    phase: Name
    total: Count | None = None
    unit: Name = ""
    round: Count = 0


class Costs(Struct, frozen=True, omit_defaults=True):
    """What one other party meant to a phase.

    Attributes:
        sent, received: the bytes that were sent to it and that came from it.
        wait: the seconds that this party waited for it.
        compute: the seconds in hooks that it reported.
    """

    sent: Count = 0
    received: Count = 0
    wait: Seconds = 0.0
    compute: Seconds = 0.0


class Done(Record):
    """A phase ended; see the event `PhaseEnded`.

    Attributes:
        units: the number of units of work that were done in it.
        parties: what each other party meant to it.
    """

    phase: Name
    seconds: Seconds
    round: Count = 0
    sent: Count = 0
    received: Count = 0
    compute: Seconds = 0.0
    encode: Seconds = 0.0
    units: Count = 0
    parties: dict[Name, Costs] = {}


class Waiting(Record):
    """This party waits for others; see the event `StillWaiting`."""

    parties: Annotated[list[Name], Meta(max_length=64)]
    seconds: Seconds


class Round(Record):
    """A round and its test ended; see the event `RoundEnded`. None stands for no finite number."""

    round: Count
    rounds: Count = 0
    seconds: Seconds = 0.0
    loss: Number | None = None
    metrics: dict[Name, Number | None] = {}


class Link(Record):
    """The quality of the link to a party, over the launch so far.

    Attributes:
        party: the feature key of the party.
        bytes: the bytes of its messages from 64 KiB on.
        seconds: the seconds from the first byte to the last byte of each, added up.
        round_trip: the shortest time in seconds to the party and back; None if it was not measured.
    """

    party: Name
    bytes: Count
    seconds: Seconds
    round_trip: Seconds | None = None


class Lost(Record):
    """A party was lost and is waited for; see the event `PartyLost`."""

    party: Name
    seconds: Seconds


class Resumed(Record):
    """The run went on from a checkpoint; see the event `Resumed`."""

    round: Count
    batch: Count = 0


class Span(Struct, frozen=True, omit_defaults=True, array_like=True):
    """One measurement within a batch.

    Attributes:
        work: what it is of.
        party: whose work it was, or with whom bytes were exchanged.
        end: the seconds from the beginning of the batch to the end of the measurement.
        seconds: the duration, or 0 for bytes.
        bytes: the size of what travelled.
    """

    work: Work
    party: Name
    end: Seconds
    seconds: Seconds = 0.0
    bytes: Count = 0


class Batch(Record):
    """One batch of a round, as this party's clock saw it.

    Attributes:
        round: the round.
        seconds: the duration of the batch.
        spans: who computed and what travelled, in the order in which it ended.
    """

    round: Count
    seconds: Seconds
    spans: Annotated[list[Span], Meta(max_length=MAX_SPANS)]


class Ended(Record):
    """The launch ended; see the event `TaskEnded`."""

    error: Name = ""
    about: Name = ""


AnyRecord = Began | Phase | Done | Waiting | Round | Link | Lost | Resumed | Batch | Ended
