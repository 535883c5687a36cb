"""Peers that flood, stall, trickle or come in thousands cost little and stop no honest run."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from zmq.utils import z85

from heterofed import TaskResult
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Timeouts
from heterofed.protocol.states import Role
from heterofed.transport.base import Channel, Endpoint, Event, Opened
from heterofed.transport.rate_limit import VISIT_SECONDS, VISITS, Visits
from heterofed.transport.zeromq.zap import DOMAIN, Admission, new_key_pair
from tests.adversarial.peers import TASK, Victim, place
from tests.e2e.processes import Parties
from tests.e2e.tiny import TinyCollaborator, TinyHost, slow_batches

pytestmark = pytest.mark.slow


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


HARMS = ("stall", "trickle", "babble")


def flood(parties: Parties, *more: str) -> None:
    """Start to do harm; goes on until the test ends."""
    process = parties.start("-m", "tests.adversarial.flood", TASK, *HARMS, *more, cold=True)
    process.wait_for("a thousand")


def test_an_honest_run_goes_on(office: Path, tmp_path: Path, parties: Parties) -> None:
    host = TinyHost(tmp_path)
    slow_batches(host, 0.25)
    bob = TinyCollaborator(tmp_path)
    honest = [Victim(host), Victim(bob)]
    deadline = time.monotonic() + 60
    while (
        bob._heterofed.run is None
        or bob._heterofed.run.maybe_party is None
        or bob._heterofed.run.party.phase != "train"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = resident()  # of parties that work, so that what their libraries take is in it
    flood(parties, "come_again")
    most = 0

    def measure() -> None:
        nonlocal most
        most = max(most, resident() - before)

    for each in honest:
        outcome = each.outcome(180, meanwhile=measure)
        assert isinstance(outcome, TaskResult), repr(outcome)
    assert most < 256 << 20, f"{most >> 20} MiB"


def test_a_crowd_at_the_door_lets_the_honest_in(
    office: Path, tmp_path: Path, parties: Parties
) -> None:
    host = Victim(TinyHost(tmp_path))
    flood(parties)
    bob = Victim(TinyCollaborator(tmp_path))
    for each in (host, bob):
        outcome = each.outcome(180)
        assert isinstance(outcome, TaskResult), repr(outcome)


# -- who says nothing, and who comes too often -----------------------------------------------------


class Now:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Silent(Channel):
    """A connection of a peer that says nothing."""

    party = None
    pending = 0
    closings = 0

    def send(self, frames: Any) -> None:
        raise AssertionError("nothing is said to it")

    def close(self) -> None:
        self.closings += 1


class Announces(Endpoint):
    """Tells of one connection, and of nothing more."""

    def __init__(self, *channels: Channel) -> None:
        self._events: list[Event] = [Opened(each) for each in channels]

    def poll(self, timeout: float) -> list[Event]:
        events, self._events = self._events, []
        return events

    def flush(self, timeout: float) -> bool:
        return True

    def close(self, linger: float = 0.0) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("phase", ["join", "train"])
def test_silent_visitors_are_sent_away_in_every_phase(phase: str) -> None:
    now, channel = Now(), Silent()
    host = Party("alice", Role.HOST, Announces(channel), timeouts=Timeouts(), clock=now)
    host.phase = phase
    host.pump(0)
    now.seconds = VISIT_SECONDS
    host.pump(0)
    assert channel.closings == 0
    now.seconds += 0.1
    host.pump(0)
    assert channel.closings == 1
    assert host.visitors == {}


def test_who_comes_too_often_is_not_looked_at() -> None:
    channels = [Silent() for _ in range(VISITS + 5)]
    host = Party("alice", Role.HOST, Announces(*channels), timeouts=Timeouts(), clock=Now())
    host.pump(0)
    assert [each.closings for each in channels] == [0] * VISITS + [1] * 5


def test_handshakes_are_counted_per_key() -> None:
    keys = [new_key_pair()[0] for _ in range(3)]
    admission = Admission(frozenset(keys[:2]))

    def asks(key: str) -> bool:
        raw = z85.decode(key.encode())
        request = [b"1.0", b"1", DOMAIN, b"", b"", b"CURVE", raw]
        return admission.answer(request, 0.0)[2] == b"200"

    assert all(asks(keys[0]) for _ in range(VISITS))
    assert not asks(keys[0])
    assert asks(keys[1])
    assert not asks(keys[2])


def test_visits_are_counted_per_party_and_minute() -> None:
    visits = Visits()
    assert all(visits.allow("bob", visit / VISITS) for visit in range(VISITS))
    assert not visits.allow("bob", 30)
    assert visits.allow("carol", 30)
    assert visits.allow(None, 30)
    assert visits.allow("bob", 60.0001)
    assert not visits.allow("bob", 60.0002)


def test_the_hosts_files_are_given_room(office: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, hard), hard))
    try:
        with place("alice").listen() as endpoint:
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 1 << 16)
            endpoint.close()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(200, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
