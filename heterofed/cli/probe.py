"""Probes the machines of a task and the connections between them, from both ends.

The Host announces the work that it plans, and measures how fast it does it. The Collaborator
does so after it, because both may be on one machine, and then measures the connection. No id and
no value of a row is sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from heterofed.cli.visit import visit
from heterofed.errors import JoinTimeoutError, OtherTermsError
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer, Timeouts
from heterofed.protocol.messages import (
    MAX_PROBE_BYTES,
    Facts,
    LinkFacts,
    ProbeBegin,
    ProbeFacts,
    ProbePing,
    ProbePong,
    ProbeResult,
    Terms,
    Work,
)
from heterofed.protocol.states import Role
from heterofed.rendezvous.admission import Admission
from heterofed.rendezvous.agreement import task_digest, terms_compared
from heterofed.rendezvous.backend import TaskPlace

PINGS = 12
"""The number of small pings, of which the fastest counts."""

FIRST_BYTES = 1 << 16
LONG_SECONDS = 0.3
"""The bytes of the first large ping, which are doubled until one takes so long."""

Measure = Callable[[Work], Facts]
"""Measures this machine for a work."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of a probe of two machines.

    Attributes:
        party: the feature key of the other party.
        work: the work that the Host plans.
        host: the facts of the Host's machine.
        shop: the facts of the Collaborator's machine.
        link: the facts of the connection.
    """

    party: str
    work: Work
    host: Facts
    shop: Facts
    link: LinkFacts


def probe_as_host(
    place: TaskPlace, name: str, work: Work, measure: Measure, wait: float
) -> Iterator[Probe]:
    """Wait for every Collaborator's probe, and yield the results one by one.

    Args:
        place: the place where the parties of the task meet.
        name: the Host's feature key.
        work: the work that the Host plans.
        measure: measures this machine; it is called once.
        wait: the seconds to wait for the Collaborators.

    Raises:
        JoinTimeoutError: no probe came from some of them.
        TaskFailed: a Collaborator broke the protocol or disconnected.
    """
    task = place.task
    missing = [each.party for each in task.collaborators]
    admission = Admission(task_digest(task.task), "probe", name, missing, terms=place.terms)
    known: list[Facts] = []
    place.purpose = "probe"
    with place.listen() as endpoint:
        host = Party(name, Role.HOST, endpoint, timeouts=Timeouts())
        admission.open(host)
        until = host.clock() + wait
        try:
            while missing and host.clock() < until:
                host.pump(0.5)
                for peer in list(host.peers.values()):
                    host.gathers = False  # from here on the task depends on it
                    with host.in_phase("probe"):
                        found = _answer(host, peer, work, measure, known)
                    host.gathers = True
                    yield found
                    host.forget(peer)
                    missing = [each for each in missing if each != peer.name]
        finally:
            host.close()
    if missing:
        raise JoinTimeoutError(
            f"no probe came from {', '.join(missing)} in {wait:.0f} s (phase join): have them run"
            f" `heterofed doctor {task.task}` at the same time",
            party=missing[0],
        )


def probe_as_collaborator(place: TaskPlace, name: str, measure: Measure, wait: float) -> Probe:
    """Answer the Host's probe, and return the result.

    Args:
        place: the place where the parties of the task meet.
        name: the feature key of this party.
        measure: measures this machine.
        wait: the seconds for which the Host may be away.

    Raises:
        JoinTimeoutError: nobody answered.
        OtherTermsError: the Host's task file differs.
        TaskFailed: the Host refused the probe, broke the protocol or disconnected.
    """

    def talk(party: Party, host: Peer) -> Probe:
        mail = party.take(host, ProbeBegin, Terms)
        if isinstance(mail.message, Terms):
            raise OtherTermsError(
                f"the task file of {name} differs from the Host's:"
                f" {terms_compared(place.terms, mail.message.terms)}; agree on one file and accept"
                " it anew (heterofed task accept)",
                party=name,
            )
        work = mail.of(ProbeBegin).work
        with party.in_phase("probe"):
            theirs = party.take(host, ProbeFacts).of(ProbeFacts).facts
            own = measure(work)  # not before, since both would share the cores of one machine
            link = measured_link(party, host)
            party.post(host, ProbeResult(own, link))
        return Probe(place.task.host.party, work, theirs, own, link)

    start = f"`heterofed doctor {place.task.task}`"
    return visit(place, name, "probe", talk, wait=wait, start=start)


def _answer(host: Party, peer: Peer, work: Work, measure: Measure, known: list[Facts]) -> Probe:
    """Talk to one Collaborator; `known` holds the Host's facts from the first one on."""
    host.post(peer, ProbeBegin(work))
    if not known:
        known.append(measure(work))
    host.post(peer, ProbeFacts(known[0]))
    while True:
        mail = host.take(peer, ProbePing, ProbeResult)
        if isinstance(mail.message, ProbeResult):
            found = mail.message
            return Probe(peer.name, work, known[0], found.facts, found.link)
        ping = mail.of(ProbePing)
        host.post(peer, ProbePong(ping.number, time.time()), _filler(ping.reply))


def measured_link(party: Party, host: Peer) -> LinkFacts:
    """Measure the round trip, both bandwidths and the difference of the clocks.

    The clocks are compared over the fastest round trip, whose halves are taken to be equal
    (Cristian, 1989).
    """
    pings = _Pings(party, host)
    rtt, ahead = min(pings.ping() for _ in range(PINGS))
    up = _bandwidth(lambda size: pings.ping(size)[0], rtt)
    down = _bandwidth(lambda size: pings.ping(reply=size)[0], rtt)
    return LinkFacts(rtt, up, down, ahead)


def _bandwidth(seconds_of: Callable[[int], float], rtt: float) -> float:
    """Return the bytes per second of ever larger pings, until one takes long."""
    size = FIRST_BYTES
    while (seconds := seconds_of(size)) < LONG_SECONDS + rtt and size < MAX_PROBE_BYTES:
        size *= 2
    return size / max(seconds - rtt, 1e-6)


def _filler(size: int) -> list[bytes]:
    """Return a payload that only takes time to be sent."""
    return [bytes(size)] if size else []


class _Pings:
    """Sends pings to the Host, one after another."""

    def __init__(self, party: Party, host: Peer) -> None:
        self._party, self._host, self._number = party, host, 0

    def ping(self, size: int = 0, reply: int = 0) -> tuple[float, float]:
        """Return the seconds of a round trip, and by how many the Host's clock is ahead."""
        began, clock = self._party.clock(), time.time()
        self._party.post(self._host, ProbePing(self._number, reply), _filler(size))
        self._number += 1
        pong = self._party.take(self._host, ProbePong).of(ProbePong)
        seconds = self._party.clock() - began
        return seconds, pong.clock - (clock + seconds / 2)
