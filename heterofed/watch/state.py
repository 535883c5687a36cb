"""What a run looks like now: the records of its journal, taken in one after the other. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from heterofed.reporting import journal_records as records

Presence = Literal["here", "awaited", "lost", "gone"]
"""How a party stands: there, waited for, lost and waited for, or gone for good."""

LEFT_BEFORE = "prepare", "psi", "split"
"""Phases of a run that begins anew: rounds that were noted before them do not count any more."""


OF_A_ROUND = "train", "test", "checkpoint"
"""Phases of a round, before which all earlier rounds were completed."""

UNNAMED = "the Host"
"""The Host, as long as a Collaborator does not know its feature key."""


@dataclass(slots=True)
class PhaseState:
    """One kind of phase, over all rounds.

    Attributes:
        name: its name.
        times: how often it ended.
        seconds, compute, encode, wait: what this party's time went into.
        sent, received: bytes.
        units: the units of work of the last one that ended.
        last_seconds: the duration of the last one that ended.
    """

    name: str
    times: int = 0
    seconds: float = 0.0
    compute: float = 0.0
    encode: float = 0.0
    wait: float = 0.0
    sent: int = 0
    received: int = 0
    units: int = 0
    last_seconds: float = 0.0


@dataclass(slots=True)
class PartyState:
    """Another party, as this one sees it.

    Attributes:
        name: its feature key.
        presence: how it stands.
        since: when that began, in seconds since 1970.
        wait: the seconds for which this party has waited for it, over all phases.
        compute: the seconds in hooks that it reported.
        sent, received: the bytes to it and from it.
        losses: how often it was lost.
        fast_bytes, fast_seconds, round_trip: the quality of its link, see the record `Link`.
    """

    name: str
    presence: Presence = "here"
    since: float = 0.0
    wait: float = 0.0
    compute: float = 0.0
    sent: int = 0
    received: int = 0
    losses: int = 0
    fast_bytes: int = 0
    fast_seconds: float = 0.0
    round_trip: float | None = None


@dataclass(slots=True)
class RunState:
    """A run, as its journal tells it.

    Attributes:
        task, party, host, collaborators, run: as the parties met last.
        began: when they met first, in seconds since 1970.
        updated: when something was noted last.
        phase, phase_began, phase_round, total, unit: the phase that goes on; empty between phases.
        phases: all phases by name, in the order in which they began first.
        parties: the other parties by name.
        rounds: the rounds by number.
        completed: the last round that was completed, as its phases tell it.
        planned: the rounds of the task; 0 where that is not known.
        batch: the last batch that was traced.
        resumes: how often the run went on from a checkpoint.
        ended: whether the last launch has ended.
        error: the class of the error that ended it; empty where it ended well.
    """

    task: str = ""
    party: str = ""
    host: str = ""
    collaborators: tuple[str, ...] = ()
    run: str = ""
    began: float = 0.0
    updated: float = 0.0
    phase: str = ""
    phase_began: float = 0.0
    phase_round: int = 0
    total: int | None = None
    unit: str = ""
    phases: dict[str, PhaseState] = field(default_factory=dict)
    parties: dict[str, PartyState] = field(default_factory=dict)
    rounds: dict[int, records.Round] = field(default_factory=dict)
    completed: int = 0
    planned: int = 0
    batch: records.Batch | None = None
    resumes: int = 0
    ended: bool = False
    error: str = ""
    _reached: int = 0

    def take_all(self, some: Iterable[records.Record]) -> None:
        """Take in several records."""
        for record in some:
            self.take(record)

    def take(self, record: records.Record) -> None:
        """Take in one record."""
        self.updated = max(self.updated, record.at)
        match record:
            case records.Began():
                self._begin(record)
            case records.Phase():
                self._begin_phase(record)
            case records.Done():
                self._end_phase(record)
            case records.Waiting(parties=names):
                for name in map(self._named, names):
                    self._set_presence(name, "awaited", record.at - record.seconds)
            case records.Round():
                self.rounds[record.round] = record
                self.planned = record.rounds or self.planned
            case records.Link():
                party = self._party(record.party)
                party.fast_bytes, party.fast_seconds = record.bytes, record.seconds
                party.round_trip = record.round_trip
            case records.Lost():
                self._set_presence(record.party, "lost", record.at)
                if record.party in self.parties:
                    self.parties[record.party].losses += 1
            case records.Resumed():
                self.resumes += 1
                self._forget_rounds(record.round)
            case records.Batch():
                self.batch = record
            case records.Ended():
                self._end(record)
            case _:
                pass

    def expected_units(self) -> int | None:
        """The units of work of the phase that goes on; as many as last time where none are told."""
        if self.total is not None:
            return self.total
        before = self.phases.get(self.phase)
        return before.units or None if before else None

    # -- within ----------------------------------------------------------------------------

    def _begin(self, record: records.Began) -> None:
        if self.run and record.run != self.run:
            self._forget_rounds(0)
        self.task, self.party, self.run = record.task, record.party, record.run
        self.host, self.collaborators = record.host, tuple(record.collaborators)
        self.began = self.began or record.at
        if (unnamed := self.parties.pop(UNNAMED, None)) is not None:  # as it was called before
            self.parties[self.host] = replace(unnamed, name=self.host)
        self.ended, self.error = False, ""
        for name in (self.host, *self.collaborators):
            if name != self.party:
                self._party(name)
                self._set_presence(name, "here", record.at)

    def _begin_phase(self, record: records.Phase) -> None:
        if record.phase in LEFT_BEFORE:
            self._forget_rounds(0)
        self.phase, self.phase_began = record.phase, record.at
        self.phase_round, self.total, self.unit = record.round, record.total, record.unit
        self.phases.setdefault(record.phase, PhaseState(record.phase))
        if record.phase in OF_A_ROUND and record.round:
            self._reached = record.round
            self.completed = max(self.completed, record.round - 1)
        elif record.phase == "finish":
            self.completed = self._reached
        self._nobody_awaited(record.at)

    def _end_phase(self, record: records.Done) -> None:
        phase = self.phases.setdefault(record.phase, PhaseState(record.phase))
        phase.times += 1
        phase.seconds += record.seconds
        phase.last_seconds = record.seconds
        phase.compute += record.compute
        phase.encode += record.encode
        phase.wait += sum(each.wait for each in record.parties.values())
        phase.sent += record.sent
        phase.received += record.received
        phase.units = record.units or phase.units
        for name, costs in record.parties.items():
            party = self._party(self._named(name))
            party.wait += costs.wait
            party.compute += costs.compute
            party.sent += costs.sent
            party.received += costs.received
        self.phase = ""
        self._nobody_awaited(record.at)

    def _end(self, record: records.Ended) -> None:
        self.ended, self.error, self.phase = True, record.error, ""
        self._nobody_awaited(record.at)
        self._set_presence(record.about, "gone", record.at)

    def _nobody_awaited(self, at: float) -> None:
        """A phase began or ended: whoever was waited for is there again."""
        for party in self.parties.values():
            if party.presence == "awaited":
                party.presence, party.since = "here", at

    def _named(self, name: str) -> str:
        """The Host's feature key, where a party waits for `the Host` and does not know it yet."""
        return (self.host or name) if name == UNNAMED else name

    def _set_presence(self, name: str, presence: Presence, at: float) -> None:
        """Note how a party of the task stands; one that is none is left out."""
        party = self.parties.get(name)
        if party is not None and party.presence != presence:
            party.presence, party.since = presence, at

    def _party(self, name: str) -> PartyState:
        return self.parties.setdefault(name, PartyState(name))

    def _forget_rounds(self, after: int) -> None:
        self.completed = self._reached = min(self.completed, after)
        self.rounds = {number: each for number, each in self.rounds.items() if number <= after}
