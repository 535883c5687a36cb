"""`events.jsonl` in the results folder: what happened in a run, one fact per line.

The live page is made of it. It is a diagnostic: whoever calls it suppresses and logs its errors.
It holds names of the task, of its parties, phases and metrics, and numbers of the whole run: no id,
no label, no feature, and no text of an error. A run that goes on after an interruption goes on in
the same file. The file is bounded: from `ROOM` bytes on only rounds and how the run went are noted,
and from twice as many on nothing is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from heterofed.events import (
    Event,
    PartyLost,
    PhaseBegan,
    PhaseEnded,
    Progressed,
    Resumed,
    RoundEnded,
    StillWaiting,
    TaskBegan,
    TaskEnded,
)
from heterofed.files import append
from heterofed.reporting import journal_records as records
from heterofed.reporting.batch_trace import BatchTrace
from heterofed.reporting.costs import Account, Cost, Direction

ROOM = 8 << 20
"""Bytes up to which everything is noted; about 5,000 rounds."""

ALWAYS = (
    records.Began,
    records.Round,
    records.Lost,
    records.Resumed,
    records.Ended,
)
"""What is noted beyond `ROOM`."""

Rows = Mapping[tuple[str, str, Direction], Cost]


class Journal:
    """The journal of one launch; a callback for its events.

    What comes before the parties have met is kept until the results folder is known by `TaskBegan`,
    since until then it may be another run's.

    Args:
        account: the costs of the run.
        room: see `ROOM`.
    """

    def __init__(self, account: Account, *, room: int = ROOM) -> None:
        self._account, self._room = account, room
        self._trace = BatchTrace(account)
        self._path: Path | None = None
        self._size = 0
        self._early: list[records.Record] = []
        self._before: dict[str, records.Costs] = {}
        self._told: dict[str, tuple[int, float | None]] = {}
        self._units = 0

    def __call__(self, event: Event) -> None:
        """Note an event.

        Raises:
            OSError, ConfigError: the file cannot be written.
        """
        if isinstance(event, Progressed):
            self._units = event.done
            if not self._trace.is_listening:
                return  # as nearly always
            noted: list[records.Record] = []
        else:
            noted = [*self._noted(event)]
        if (batch := self._trace(event)) is not None:
            noted.append(batch)
        if isinstance(event, TaskBegan):
            self._open(event.folder / records.FILE)
            noted = [*self._early, *noted]
            self._early = []
        if self._path is None:
            self._early += noted
        elif noted:
            self._write(self._path, noted)

    def _open(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size if path.exists() else 0

    def _write(self, path: Path, noted: list[records.Record]) -> None:
        if self._size > 2 * self._room:
            return
        if self._size > self._room:
            noted = [each for each in noted if isinstance(each, ALWAYS)]
        raw = b"".join(msgspec.json.encode(each) + b"\n" for each in noted)
        if raw:
            append(path, raw, sync=False)
            self._size += len(raw)

    def _noted(self, event: Event) -> Iterator[records.Record]:
        """What an event is noted as; most are one record."""
        now = round(time.time(), 3)
        match event:
            case TaskBegan():
                yield records.Began(
                    at=now,
                    task=event.task_id,
                    party=event.party,
                    host=event.host,
                    collaborators=list(event.collaborators),
                    run=event.run,
                )
            case PhaseBegan(phase, total, unit, number):
                self._units, self._before = 0, costs_of(self._account.rows, phase)
                yield records.Phase(at=now, phase=phase, total=total, unit=unit, round=number)
            case PhaseEnded():
                yield self._done(event, now)
                yield from self._links(now)
            case StillWaiting(parties, seconds):
                yield records.Waiting(at=now, parties=list(parties), seconds=round(seconds, 3))
            case RoundEnded():
                yield _round(event, now)
            case PartyLost(party, seconds):
                yield records.Lost(at=now, party=party, seconds=min(seconds, 1e12))
            case Resumed(number, batch):
                yield records.Resumed(at=now, round=number, batch=batch)
            case TaskEnded(error, about):
                yield records.Ended(at=now, error=error or "", about=about or "")

    def _done(self, event: PhaseEnded, now: float) -> records.Done:
        after = costs_of(self._account.rows, event.phase)
        return records.Done(
            at=now,
            phase=event.phase,
            round=event.round,
            seconds=round(event.seconds, 4),
            sent=event.bytes_sent,
            received=event.bytes_received,
            compute=round(event.compute, 4),
            encode=round(event.encode, 4),
            units=self._units,
            parties={
                name: _less(costs, self._before.get(name, records.Costs()))
                for name, costs in after.items()
                if name != self._account.own
            },
        )

    def _links(self, now: float) -> Iterator[records.Link]:
        """The links of which something else is known than at the end of the last phase."""
        account = self._account
        for party in dict.fromkeys([*account.arrivals, *account.round_trips]):
            arrival, round_trip = account.arrivals.get(party), account.round_trips.get(party)
            known = arrival.bytes if arrival else 0, round_trip
            if known == self._told.get(party):
                continue
            self._told[party] = known
            yield records.Link(
                at=now,
                party=party,
                bytes=known[0],
                seconds=round(arrival.seconds, 4) if arrival else 0.0,
                round_trip=None if round_trip is None else round(round_trip, 6),
            )


def costs_of(rows: Rows, phase: str) -> dict[str, records.Costs]:
    """What each party meant to a phase so far, over all rounds."""
    found: dict[str, records.Costs] = {}
    for (where, party, direction), cost in rows.items():
        if where != phase:
            continue
        other = found.get(party, records.Costs())
        found[party] = records.Costs(
            sent=other.sent + (cost.bytes if direction == "sent" else 0),
            received=other.received + (cost.bytes if direction == "received" else 0),
            wait=other.wait + cost.wait,
            compute=other.compute + cost.compute,
        )
    return found


def _less(after: records.Costs, before: records.Costs) -> records.Costs:
    return records.Costs(
        sent=after.sent - before.sent,
        received=after.received - before.received,
        wait=round(max(0.0, after.wait - before.wait), 4),
        compute=round(max(0.0, after.compute - before.compute), 4),
    )


def _round(event: RoundEnded, now: float) -> records.Round:
    metrics = {name: value for name, value in event.metrics.items() if name != "round"}
    return records.Round(
        at=now,
        round=event.round,
        rounds=event.rounds,
        seconds=round(event.seconds, 4),
        loss=_finite(event.loss),
        metrics={name: _finite(value) for name, value in metrics.items()},
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
