"""The Host's side of the intersection with one Collaborator: `psi`'s bytes, in a small window.

The window is kept small because what is on its way when a party is killed has to be signed again,
and a signer does that for so many values only (`psi.signing.RESIGN_VALUES`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psi
from heterofed.errors import PeerTimeoutError, PSIFailedError, PSILimitError
from heterofed.intersection.storage import kept_results, tested_by
from heterofed.messaging.peer import Peer
from heterofed.protocol.messages import (
    PsiBegin,
    PsiBlinded,
    PsiKey,
    PsiMatched,
    PsiRenew,
    PsiSigned,
    PsiTagged,
    PsiTags,
    PsiUnblinded,
)
from heterofed.runs.run import Run

TAG_BYTES = 16

CHUNK_IDS = 1024
"""Ids per chunk: some 150 ms of a signer's two cores with RSA, 25 ms with ECDH."""

CHUNKS_AHEAD = 3
"""Chunks asked for and not yet unblinded and kept: one at each party, and one on its way."""


TAGS_PER_SECOND = 10
"""Tags that the slowest party makes in a second: one that makes fewer is not waited for."""


class Request:
    """One Collaborator's part in the Host's intersection, in the order of the calls.

    Args:
        run: this run.
        peer: the Collaborator; its key is taken here.
        ids: own ids.
        kept: whether results are kept for a later meeting, and the Collaborator's ids are counted.

    Attributes:
        name: the Collaborator's feature key.
        peer_count: how many ids it has.
        answered: own ids whose signatures are unblinded and kept.
        matches: after `take_tags`, the positions of the own ids that the Collaborator has too.

    Raises:
        PSIFailedError: here and in each method: a check failed; it names the party.
    """

    def __init__(self, run: Run, peer: Peer, ids: psi.OwnIds, *, kept: bool = True) -> None:
        self._run, self._party, self._peer = run, run.party, peer
        self.name = peer.name
        self._count = len(ids)
        self._resume = kept_results(run, peer) if kept else None
        if not self._open(ids):
            self._requester.close()
            self._party.post(peer, PsiRenew())
            self._open(ids)
        self._chunks = self._requester.blinded()
        self._width = self._requester.value_bytes
        self._asked = self.answered = self._requester.resumed
        self.matches = array("Q")
        self._ahead = 0  # chunks that were asked for and are not yet unblinded
        run.result.psi = {
            "protocol": run.plan.psi_protocol,
            "backend": self._requester.backend,
        }

    def _open(self, ids: psi.OwnIds) -> bool:
        """Take the key; False where it is an earlier meeting's and nothing of that is here."""
        mail = self._party.take(self._peer, PsiKey)
        key = mail.of(PsiKey)
        self.peer_count = key.count
        plan, settings = self._run.plan, dict[str, Any]()
        if plan.psi_protocol == "rsa":
            settings = {"min_bits": plan.psi_bits, "max_bits": plan.psi_bits}
        limit = plan.max_peer_ids
        if self._resume is not None:
            settings |= {"resume": self._resume, "budget": tested_by(self._run, self._peer)}
            if not self._peer.channel.party:  # then all of them are counted together
                limit *= len(self._party.peers)
        with named(self._peer, self._party.name):
            self._requester = psi.requester(
                plan.psi_protocol,
                ids,
                bytes(mail.payload),
                key.count,
                domain=domain_of(self._run, self.name),
                chunk_ids=CHUNK_IDS,
                max_peer_ids=limit,
                **settings,
            )
        return self._requester.known or not key.kept

    def __enter__(self) -> Request:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._requester.close()
        if self._resume is not None and is_void(error, self.name, self._party.name):
            self._resume.discard()

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
            with named(self._peer, self._party.name):
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
        with named(self._peer, self._party.name):
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
        taken, began = 0, self._party.clock()
        while taken < self.peer_count:
            mail = self._party.take(self._peer, PsiTags, PsiTagged)
            if isinstance(mail.message, PsiTags):
                with named(self._peer, self._party.name):
                    self._requester.add_tags(bytes(mail.payload))
                taken += mail.message.values
            else:
                self._check_pace(self._party.clock() - began)
        with named(self._peer, self._party.name):
            self.matches = self._requester.positions()

    def _check_pace(self, seconds: float) -> None:
        """However little it makes between two notices, all of it is done some day."""
        silence = self._run.plan.calculation_timeout
        most = silence + self.peer_count / TAGS_PER_SECOND
        if silence and seconds > most:
            raise PeerTimeoutError(
                f"{self.name} has not made the tags of its {self.peer_count} ids in {seconds:.0f} s"
                f" (phase psi), though {most:.0f} s are enough for any machine; see its log",
                party=self.name,
            )

    def claim(self, common: array[int]) -> None:
        """Prove the matches at these positions, and that there are no more."""
        for proofs in self._requester.proofs_at(common):
            self._party.post(self._peer, PsiMatched(len(proofs) // TAG_BYTES, last=False), [proofs])
        self._party.post(self._peer, PsiMatched(0, last=True))


@contextmanager
def named(peer: Peer, own: str, setting: str = "max_peer_ids") -> Iterator[None]:
    """Turn psi's errors into ours, naming the peer; their texts hold no ids.

    Args:
        peer: with whom ids are intersected.
        own: this party.
        setting: which setting of this party limits what the peer may have.
    """
    try:
        yield
    except psi.LimitError as error:
        raise PSILimitError(
            f"{own} intersects no more ids with {peer.name}: {error}; runs in which neither party's"
            f" ids have changed count once. If {peer.name} needs so many, raise {setting} at {own}"
            " and start all parties again",
            party=own,
        ) from error
    except (psi.PeerError, psi.BudgetError) as error:
        raise PSIFailedError(
            f"the intersection with {peer.name} was given up: {error}", party=peer.name
        ) from error
    except psi.PSIError as error:
        raise PSIFailedError(
            f"this party's own part of the intersection failed: {error}", party=own
        ) from error


def is_void(error: BaseException | None, *parties: str) -> bool:
    """Whether what two parties have kept is of no use after this error: one of them caused it."""
    if not isinstance(error, PSIFailedError) or isinstance(error, PSILimitError):
        return False
    return error.party in parties


def domain_of(run: Run, collaborator: str) -> bytes:
    """What both sides bind hashes, keys and files to: each key is of one pair in one task."""
    return psi.domain(run.task_id, f"{run.plan.host}\0{collaborator}")
