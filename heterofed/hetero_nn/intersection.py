"""The PSI phase, over the protocol: the Host requests, every Collaborator signs.

The cryptography is in `psi`; here its bytes are put into messages, in windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psi
from heterofed.errors import EmptyIntersectionError, PSIFailedError
from heterofed.lifecycle import Run, party_of, plan_of
from heterofed.party import Party
from heterofed.peers import Peer
from heterofed.protocol.messages import (
    PsiBegin,
    PsiBlinded,
    PsiKey,
    PsiMatched,
    PsiSigned,
    PsiTags,
)
from heterofed.transport.local import heterofed_home

TAG_BYTES = 16


def intersect_as_host(run: Run, ids: Sequence[str]) -> list[str]:
    """Find the ids that every party has; gives them in the order of `ids`.

    Raises:
        PSIFailedError: a check failed; it names the party.
        EmptyIntersectionError: no id is common to all.
    """
    party = party_of(run)
    with party.in_phase("psi", total=len(ids) * len(party.peers), unit="ids"):
        requests = [_Request(run, peer, ids) for peer in party.peers.values()]
        for request in requests:
            request.announce()
        done = 0
        while any(not request.signed for request in requests):
            for request in requests:
                request.ask()
            for request in requests:
                done += request.take_signed()
            party.progress(done)
        for request in requests:
            request.take_tags()
        common = set(ids).intersection(*(request.matches() for request in requests))
        if not common:
            raise EmptyIntersectionError(
                f"{party.name} has {len(ids)} ids and none of them is common to all parties;"
                " compare how the parties write their ids (spaces, case, leading zeros)"
            )
        for request in requests:
            request.claim(common)
    return [each for each in ids if each in common]


def intersect_as_collaborator(
    run: Run, host: Peer, ids: Sequence[str], *, max_peer_ids: int
) -> list[str]:
    """Take part in the Host's intersection; gives the common ids.

    Args:
        run: this run.
        host: who asks.
        ids: own ids.
        max_peer_ids: how many ids the Host may have signed in all runs of this task together; it
            is counted on disk before each signature.

    Raises:
        PSIFailedError: a check failed, or the Host asks for more than it may have.
    """
    party, plan = party_of(run), plan_of(run)
    if len(ids) > plan.max_peer_ids:
        raise PSIFailedError(
            f"{party.name} has {len(ids)} ids and the plan of {host.name} allows"
            f" {plan.max_peer_ids}",
            party=host.name,
        )
    with party.in_phase("psi", unit="ids"), _named(host):
        # A name that the connection does not prove is the Host's own word: it may change any day.
        asker = host.channel.party or ""
        bits: dict[str, Any] = {"bits": plan.psi_bits} if plan.psi_protocol == "rsa" else {}
        signer = psi.signer(
            plan.psi_protocol,
            ids,
            **bits,
            domain=_domain(run),
            budget=psi.Budget(heterofed_home() / "budgets", peer=asker, task=run.task_id),
            max_peer_ids=max_peer_ids,
        )
        try:
            party.post(host, PsiKey(len(ids)), [signer.public_key()])
            signer.precompute()
            begin = party.take(host, PsiBegin).of(PsiBegin)
            signer.begin(begin.count)
            signed = 0
            while signed < begin.count:
                mail = party.take(host, PsiBlinded)
                values = mail.of(PsiBlinded).values
                party.post(host, PsiSigned(values), [signer.sign(bytes(mail.payload))])
                signed += values
                party.progress(signed, begin.count)
            for tags in signer.tags():
                party.post(host, PsiTags(len(tags) // TAG_BYTES), [tags])
            while True:
                mail = party.take(host, PsiMatched)
                last = mail.of(PsiMatched).last
                common = signer.matched(bytes(mail.payload), last=last)
                if common is not None:
                    break
        finally:
            signer.close()
    if not common:
        raise EmptyIntersectionError(f"{host.name} says that no id is common to all parties")
    return common


class _Request:
    """The Host's side of the intersection with one Collaborator."""

    def __init__(self, run: Run, peer: Peer, ids: Sequence[str]) -> None:
        self._party: Party = party_of(run)
        self._peer = peer
        self._count = len(ids)
        mail = self._party.take(peer, PsiKey)
        self._peer_count = mail.of(PsiKey).count
        with _named(peer):
            plan = plan_of(run)
            bits = {"min_bits": plan.psi_bits, "max_bits": plan.psi_bits}
            self._requester = psi.requester(
                plan.psi_protocol,
                ids,
                bytes(mail.payload),
                self._peer_count,
                domain=_domain(run),
                **(bits if plan.psi_protocol == "rsa" else {}),
            )
            self._chunks = self._requester.blinded()
        self._width = self._requester.value_bytes
        self._asked = self._answered = 0

    @property
    def signed(self) -> bool:
        return self._answered == self._count

    def announce(self) -> None:
        self._party.post(self._peer, PsiBegin(self._count))

    def ask(self) -> None:
        """Send blinded ids as far as the session's window goes, so that the signer never waits."""
        while self._asked < self._count and self._peer.session.psi_window > 0:
            with _named(self._peer):
                chunk = next(self._chunks)
            values = len(chunk) // self._width
            self._party.post(self._peer, PsiBlinded(values), [chunk])
            self._asked += values

    def take_signed(self) -> int:
        """Take one chunk of signatures, where one is due; gives how many."""
        if self.signed:
            return 0
        mail = self._party.take(self._peer, PsiSigned)
        with _named(self._peer):
            self._requester.unblind(bytes(mail.payload))
        values = mail.of(PsiSigned).values
        self._answered += values
        return values

    def take_tags(self) -> None:
        taken = 0
        while taken < self._peer_count:
            mail = self._party.take(self._peer, PsiTags)
            with _named(self._peer):
                self._requester.add_tags(bytes(mail.payload))
            taken += mail.of(PsiTags).values

    def matches(self) -> list[str]:
        with _named(self._peer):
            return self._requester.intersection()

    def claim(self, common: set[str]) -> None:
        for proofs in self._requester.proofs(common):
            self._party.post(self._peer, PsiMatched(len(proofs) // TAG_BYTES, last=False), [proofs])
        self._party.post(self._peer, PsiMatched(0, last=True))


@contextmanager
def _named(peer: Peer) -> Iterator[None]:
    """Turn psi's errors into ours, naming the peer; their texts hold no ids."""
    try:
        yield
    except (psi.PeerError, psi.BudgetError) as error:
        raise PSIFailedError(
            f"the intersection with {peer.name} was given up: {error}", party=peer.name
        ) from error
    except psi.PSIError as error:
        raise PSIFailedError(
            f"this party's own part of the intersection failed: {error}"
        ) from error


def _domain(run: Run) -> bytes:
    agreement = run.agreement
    return psi.domain(run.task_id, agreement.run.hex() if agreement else "")
