"""Runs the Host's side of the intersection with one Collaborator, with a few chunks in flight.

The number of chunks is small, because chunks in flight when a party is killed have to be signed
again, and a signer does that only for `psi.signing.RESIGN_VALUES` values.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psi
from heterofed.errors import PSIFailedError, PSILimitError
from heterofed.intersection.pace import values_pace
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
from psi.executors import Pool

TAG_BYTES = 16

CHUNK_IDS = 1024
"""The least ids per chunk, which take two cores of a signer about 150 ms with RSA and 25 ms with
ECDH.
"""

MOST_CHUNK_IDS = 4096
"""The ids per chunk of large sets, and for an executor, which computes many at once. Each chunk is
counted on disk at one party and stored at the other, which takes a few milliseconds.
"""

_CHUNKS = 32
"""The least number of chunks of a set whose chunks have more than the least ids."""

CHUNKS_AHEAD = 3
"""The most chunks without a stored result: one at each party, and one in transfer."""


class Request:
    """The Host's intersection with one Collaborator; the methods are listed in the order of calls.

    Args:
        run: this run.
        peer: the Collaborator, whose key the constructor receives.
        ids: the ids of this party.
        executor: computes this party's part; None computes it in this process.
        kept: whether results are kept for later runs, and the Collaborator's ids are counted.

    Attributes:
        name: the Collaborator's feature key.
        peer_count: the number of ids of the Collaborator.
        answered: the number of own ids whose signatures are unblinded and stored.
        matches: after `take_tags`, the positions of the own ids that the Collaborator has too. They
            stay empty in a joint intersection, in which nobody learns them.

    Raises:
        PSIFailedError: a check failed, in the constructor or in a method. The error names the
            party.
    """

    def __init__(
        self,
        run: Run,
        peer: Peer,
        ids: psi.OwnIds,
        executor: Pool | None = None,
        *,
        kept: bool = True,
    ) -> None:
        self._run, self._party, self._peer = run, run.party, peer
        self._executor = executor
        self.name = peer.name
        self._count = len(ids)
        self._joint, self._counts = run.plan.psi_parties == "joint", kept
        self._resume = kept_results(run, peer) if kept else None
        if not self._open(ids):
            self._requester.close()
            self._party.post(peer, PsiRenew())
            self._open(ids)
        self._chunks = self._requester.blinded()
        self._width = self._requester.value_bytes
        self._asked = self.answered = self._requester.resumed
        self.matches = array("Q")
        self._ahead = 0  # the number of chunks that were sent and are not unblinded yet
        run.result.psi = {
            "protocol": run.plan.psi_protocol,
            "backend": self._requester.backend,
        }

    def _open(self, ids: psi.OwnIds) -> bool:
        """Receive the key; return False if it is an earlier one of which nothing is stored here."""
        mail = self._party.take(self._peer, PsiKey)
        key = mail.of(PsiKey)
        self.peer_count = key.count
        with named(self._peer, self._party.name):
            self._requester = self._make(ids, bytes(mail.payload), key.count)
        return self._requester.known or not key.kept

    def _make(self, ids: psi.OwnIds, key: bytes, count: int) -> psi.Requester[Any]:
        """Return the requester of the plan's protocol."""
        plan, settings, limit = self._run.plan, dict[str, Any](), self._run.plan.max_peer_ids
        if self._counts:
            settings["budget"] = tested_by(self._run, self._peer)
            if not self._peer.channel.party:  # then all of them are counted together
                limit *= len(self._party.peers)
        settings |= {"domain": domain_of(self._run, self.name), "max_peer_ids": limit}
        settings["chunk_ids"] = chunk_ids(self._count, pooled=self._executor is not None)
        settings["executor"] = self._executor
        if self._resume is not None:
            settings["resume"] = self._resume
        if self._joint:
            return psi.JointRequester(ids, key, count, **settings)
        if plan.psi_protocol == "rsa":
            settings |= {"min_bits": plan.psi_bits, "max_bits": plan.psi_bits}
        return psi.requester(plan.psi_protocol, ids, key, count, **settings)

    def __enter__(self) -> Request:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._requester.close()
        if self._resume is not None and is_void(error, self.name, self._party.name):
            self._resume.discard()

    @property
    def signed(self) -> bool:
        """Whether the signatures of all own ids are stored."""
        return self.answered == self._count

    @property
    def has_store(self) -> bool:
        """Whether the whole key-value store of a joint intersection came in an earlier run."""
        return self._joint and self.decoded.complete

    def announce(self, *, again: bool = False) -> None:
        """Send the number of own ids, and the number of stored results.

        Args:
            again: whether the stores of all Collaborators came before, and must be the same now.
        """
        if again:
            self.decoded.repeat()
        self._party.post(self._peer, PsiBegin(self._count, self.answered, again))
        self._confirm()

    def ask(self) -> None:
        """Send blinded ids until the limit of chunks in flight, so that the signer need not
        wait.
        """
        # Answers that arrived before the peer disconnected are still unblinded and stored.
        while self._asked < self._count and self._ahead < CHUNKS_AHEAD and not self._peer.lost:
            with named(self._peer, self._party.name):
                chunk = next(self._chunks)
            values = len(chunk) // self._width
            self._party.post(self._peer, PsiBlinded(values), [chunk])
            self._asked += values
            self._ahead += 1

    def take_signed(self) -> int:
        """Receive one chunk of signatures if one is due, and return how many."""
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
        """Receive all tags of the Collaborator's ids, and match them at once, which frees files."""
        taken, due = 0, self._run.plan.psi_tags(self.peer_count)
        what = f"made the tags of its {self.peer_count} ids"
        pace = values_pace(self._run, self._peer, what, self.peer_count)
        while taken < due:
            mail = self._party.take(self._peer, PsiTags, PsiTagged)
            pace.check()
            if isinstance(mail.message, PsiTags):
                with named(self._peer, self._party.name):
                    self._requester.add_tags(bytes(mail.payload))
                taken += mail.message.values
        with named(self._peer, self._party.name):
            if isinstance(self._requester, psi.JointRequester):
                self._requester.shares()
            else:
                self.matches = self._requester.positions()

    @property
    def decoded(self) -> psi.JointRequester:
        """The requester of a joint intersection."""
        if not isinstance(self._requester, psi.JointRequester):
            raise TypeError("this intersection is not joint")
        return self._requester

    def claim(self, common: array[int]) -> None:
        """Send the match proofs of these positions, and mark the last chunk."""
        for proofs in self._requester.proofs_at(common):
            self._party.post(self._peer, PsiMatched(len(proofs) // TAG_BYTES, last=False), [proofs])
        self._party.post(self._peer, PsiMatched(0, last=True))


def chunk_ids(count: int, *, pooled: bool = False) -> int:
    """Return the ids per chunk.

    Args:
        count: the number of ids that are requested.
        pooled: whether an executor computes.
    """
    return MOST_CHUNK_IDS if pooled else min(MOST_CHUNK_IDS, max(CHUNK_IDS, count // _CHUNKS))


@contextmanager
def named(peer: Peer, own: str, setting: str = "max_peer_ids") -> Iterator[None]:
    """Turn errors of psi into errors of heterofed that name the peer. Their texts hold no ids.

    Args:
        peer: the peer with which ids are intersected.
        own: this party.
        setting: the setting of this party that limits the ids of the peer.
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
            f"the intersection with {peer.name} was given up: {error}; run the same version at"
            " both,"
            f" and do not trust {peer.name} if the error remains",
            party=peer.name,
        ) from error
    except psi.PSIError as error:
        raise PSIFailedError(
            f"this party's own part of the intersection failed: {error}; start all parties again",
            party=own,
        ) from error


def is_void(error: BaseException | None, *parties: str) -> bool:
    """Return whether the stored results of these parties are useless, because one caused the
    error.
    """
    if not isinstance(error, PSIFailedError) or isinstance(error, PSILimitError):
        return False
    return error.party in parties


def domain_of(run: Run, collaborator: str) -> bytes:
    """Return the bytes that bind hashes, keys and files to one pair of parties in one task."""
    kind = b"joint" if run.plan.psi_parties == "joint" else b""  # their keys are never exchanged
    return psi.domain(run.task_id, f"{run.plan.host}\0{collaborator}") + kind
