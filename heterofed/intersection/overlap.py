"""Counts common ids over the protocol, so that both parties learn the number and no id.

The cryptography is in `psi.cardinality`; this module sends its bytes in messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psi
from heterofed.errors import IdError
from heterofed.intersection.ids import check_count
from heterofed.intersection.pace import values_pace
from heterofed.intersection.request import domain_of, named
from heterofed.intersection.storage import allowed_to, signed_for
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.protocol.limits import POINT_BYTES
from heterofed.protocol.messages import (
    CountBegin,
    CountBlinded,
    CountOwn,
    CountRaised,
    CountReady,
    CountResult,
    PsiTagged,
)
from heterofed.runs.run import Run


def count_as_host(run: Run, ids: psi.OwnIds) -> dict[str, int]:
    """Return how many ids each Collaborator shares with this party, by feature key.

    Raises:
        IdError: there are too few ids for a count.
        LeakLimitError, PSIFailedError: there are more ids than the plan allows, or a check failed.
            The error names the party.
    """
    party = run.party
    check_count(run, len(ids))
    with party.in_phase("psi", total=len(ids) * len(party.peers), unit="ids"):
        return {peer.name: _ask(run, party, peer, ids) for peer in list(party.peers.values())}


def count_as_collaborator(run: Run, host: Peer, ids: psi.OwnIds, *, max_peer_ids: int) -> int:
    """Take part in a count, and return how many ids the Host shares with this party.

    Args:
        run: this run.
        host: the Host, which requests the count.
        ids: the ids of this party.
        max_peer_ids: the most ids of the Host that are counted or intersected in all runs of this
            task together. A repeated count uses up the number again, unlike a repeated
            intersection.

    Raises:
        IdError: there are too few ids for a count.
        LeakLimitError: there are more ids than the terms allow.
        PSIFailedError: a check failed, or the Host requested more than is allowed.
    """
    party = run.party
    check_count(run, len(ids))
    max_peer_ids, setting = allowed_to(run, max_peer_ids, "max_peer_ids")
    with party.in_phase("psi", unit="ids"), named(host, party.name, setting):
        count = party.take(host, CountBegin).of(CountBegin).count
        run.result.smallest_ids = min(count, len(ids))
        budget = signed_for(run, host)
        with _enough(), psi.CountAnswerer(ids, domain=_domain(run, party.name)) as answerer:
            answerer.begin(count)
            budget.spend(count, max_peer_ids)
            party.post(host, CountReady(len(ids)))
            return _answer(party, host, answerer, count)


def _ask(run: Run, party: Party, peer: Peer, ids: psi.OwnIds) -> int:
    party.post(peer, CountBegin(len(ids)))
    theirs = party.take(peer, CountReady).of(CountReady).count
    run.result.smallest_ids = min(run.result.smallest_ids or len(ids), theirs)
    domain = _domain(run, peer.name)
    with named(peer, party.name), _enough(), psi.CountAsker(ids, theirs, domain=domain) as asker:
        run.result.psi = {"protocol": "count", "backend": asker.backend}
        for chunk in asker.blinded():
            party.post(peer, CountBlinded(len(chunk) // POINT_BYTES), [chunk])
        raised = own = 0
        both = len(ids) + theirs
        pace = values_pace(run, peer, f"answered a count of {both} ids", both)
        while raised < len(ids):
            mail = party.take(peer, CountRaised, PsiTagged)
            pace.check()
            if isinstance(mail.message, CountRaised):
                asker.add_raised(bytes(mail.payload))
                raised += mail.message.values
                party.progress(raised)
        while own < theirs:
            mail = party.take(peer, CountOwn)
            pace.check()
            asker.add_own(bytes(mail.payload))
            own += mail.of(CountOwn).values
        size = asker.size()
    party.post(peer, CountResult(size))
    return size


def _answer(party: Party, host: Peer, answerer: psi.CountAnswerer, count: int) -> int:
    taken = 0
    while taken < count:
        mail = party.take(host, CountBlinded)
        answerer.add_blinded(bytes(mail.payload))
        taken += mail.of(CountBlinded).values
        party.progress(taken, count)
        party.post(host, PsiTagged(taken))
    for done in answerer.compute():  # reports progress to the Host, because this may take long
        party.pump(0)
        party.post(host, PsiTagged(count + done))
    for chunk in answerer.raised():
        party.post(host, CountRaised(len(chunk) // POINT_BYTES), [chunk])
    for chunk in answerer.own():
        party.post(host, CountOwn(len(chunk) // POINT_BYTES), [chunk])
    return answerer.told(party.take(host, CountResult).of(CountResult).common)


@contextmanager
def _enough() -> Iterator[None]:
    try:
        yield
    except psi.IdsError as error:
        raise IdError(f"{error}; give more ids, or run the intersection itself") from None


def _domain(run: Run, collaborator: str) -> bytes:
    """Return the bytes that bind the values of one count to the pair, the task and this run."""
    return domain_of(run, collaborator) + b"count" + run.agreement.secret
