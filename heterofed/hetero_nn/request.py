"""The Host's side of the intersection with one Collaborator: `psi`'s bytes, in a small window.

The window is kept small because what is on its way when a party is killed has to be signed again,
and a signer does that for so many values only (`psi.signing.RESIGN_VALUES`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import psi
from heterofed.errors import PSIFailedError
from heterofed.party import Party
from heterofed.peers import Peer
from heterofed.protocol.messages import (
    PsiBegin,
    PsiBlinded,
    PsiKey,
    PsiMatched,
    PsiSigned,
    PsiTagged,
    PsiTags,
    PsiUnblinded,
)
from heterofed.runs import Run, party_of, plan_of

TAG_BYTES = 16

CHUNK_IDS = 1024
"""Ids per chunk: some 150 ms of a signer's two cores with RSA, 25 ms with ECDH."""

CHUNKS_AHEAD = 3
"""Chunks asked for and not yet unblinded and kept: one at each party, and one on its way."""


class Request:
    """One Collaborator's part in the Host's intersection, in the order of the calls.

    Args:
        run: this run.
        peer: the Collaborator; its key is taken here.
        ids: own ids.

    Attributes:
        name: the Collaborator's feature key.
        answered: own ids whose signatures are unblinded and kept.
        matches: after `take_tags`, the positions of the own ids that the Collaborator has too.

    Raises:
        PSIFailedError: here and in each method: a check failed; it names the party.
    """

    def __init__(self, run: Run, peer: Peer, ids: psi.OwnIds) -> None:
        self._party: Party = party_of(run)
        self._peer = peer
        self.name = peer.name
        self._count = len(ids)
        mail = self._party.take(peer, PsiKey)
        self._peer_count = mail.of(PsiKey).count
        with named(peer):
            plan = plan_of(run)
            bits = {"min_bits": plan.psi_bits, "max_bits": plan.psi_bits}
            self._requester = psi.requester(
                plan.psi_protocol,
                ids,
                bytes(mail.payload),
                self._peer_count,
                domain=domain_of(run),
                chunk_ids=CHUNK_IDS,
                max_peer_ids=plan.max_peer_ids,
                resume=psi.Resume(run.store.psi, peer=peer.name, task=run.task_id),
                **(bits if plan.psi_protocol == "rsa" else {}),
            )
            self._chunks = self._requester.blinded()
        self._width = self._requester.value_bytes
        self._asked = self.answered = self._requester.resumed
        self.matches = array("Q")
        self._ahead = 0  # chunks that were asked for and are not yet unblinded
        run.result.psi = {"protocol": plan.psi_protocol, "backend": self._requester.backend}

    def __enter__(self) -> Request:
        return self

    def __exit__(self, *_: object) -> None:
        self._requester.close()

    @property
    def signed(self) -> bool:
        """Whether all own ids are answered."""
        return self.answered == self._count

    def announce(self) -> None:
        """Say how many ids there are, and how many of them have their answer from before."""
        self._party.post(self._peer, PsiBegin(self._count, self.answered))
        self._confirm()

    def ask(self) -> None:
        """Send blinded ids, so that the signer never waits, but no more than may get lost."""
        # Of a peer that is gone, what came before is still unblinded and kept.
        while self._asked < self._count and self._ahead < CHUNKS_AHEAD and not self._peer.lost:
            with named(self._peer):
                chunk = next(self._chunks)
            values = len(chunk) // self._width
            self._party.post(self._peer, PsiBlinded(values), [chunk])
            self._asked += values
            self._ahead += 1

    def take_signed(self) -> int:
        """Take one chunk of signatures, where one is due; gives how many."""
        if self.signed:
            return 0
        mail = self._party.take(self._peer, PsiSigned)
        with named(self._peer):
            self._requester.unblind(bytes(mail.payload))
        values = mail.of(PsiSigned).values
        self.answered += values
        self._ahead -= 1
        self._confirm()
        return values

    def _confirm(self) -> None:
        if self.signed:
            self._party.post(self._peer, PsiUnblinded())

    def take_tags(self) -> None:
        """Take all tags of the Collaborator's ids, and match them at once, which frees files."""
        taken = 0
        while taken < self._peer_count:
            mail = self._party.take(self._peer, PsiTags, PsiTagged)
            if isinstance(mail.message, PsiTags):
                with named(self._peer):
                    self._requester.add_tags(bytes(mail.payload))
                taken += mail.message.values
        with named(self._peer):
            self.matches = self._requester.positions()

    def claim(self, common: array[int]) -> None:
        """Prove the matches at these positions, and that there are no more."""
        for proofs in self._requester.proofs_at(common):
            self._party.post(self._peer, PsiMatched(len(proofs) // TAG_BYTES, last=False), [proofs])
        self._party.post(self._peer, PsiMatched(0, last=True))


@contextmanager
def named(peer: Peer) -> Iterator[None]:
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


def domain_of(run: Run) -> bytes:
    """What both sides bind hashes, keys and files of this run to."""
    agreement = run.agreement
    return psi.domain(run.task_id, agreement.run.hex() if agreement else "")
