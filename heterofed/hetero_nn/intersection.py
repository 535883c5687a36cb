"""The PSI phase, over the protocol: the Host requests, every Collaborator signs.

The cryptography is in `psi`; here its bytes are put into messages, in windows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psi
from heterofed.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EmptyIntersectionError,
    IdError,
    PSIFailedError,
)
from heterofed.party import NOTICE_SECONDS, POLL_SECONDS, Party
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
from heterofed.transport.local import heterofed_home

TAG_BYTES = 16

OVER = (PSIFailedError, DataError, ConfigError)
"""After these no intersection goes on; after a lost party or an interruption it does."""


def own_ids(ids: object) -> psi.OwnIds:
    """Check what `load_local_ids` returned; any iterable will do, and need not fit into memory.

    Raises:
        IdError: not an iterable of unique strings without lone surrogates, or empty. The message
            gives counts and positions, never an id.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise IdError(f"load_local_ids must return strings, not {type(ids).__name__}")
    try:
        own = ids if isinstance(ids, psi.OwnIds) else psi.OwnIds(ids)
    except psi.IdsError as error:
        raise IdError(
            f"load_local_ids: {error}; ids must be unique strings, made alike at every party"
        ) from None
    if not len(own):
        raise IdError("load_local_ids returned no id; there is nothing to intersect")
    return own


def intersect_as_host(run: Run, ids: Iterable[str]) -> list[str]:
    """The ids that every party has, in the order of `ids`; see `common_as_host`."""
    own = own_ids(ids)
    return own.pick(common_as_host(run, own))


def intersect_as_collaborator(
    run: Run, host: Peer, ids: Iterable[str], *, max_peer_ids: int, may_be_empty: bool = False
) -> list[str]:
    """The ids that every party has, in the order of `ids`; see `common_as_collaborator`."""
    own = own_ids(ids)
    return own.pick(
        common_as_collaborator(run, host, own, max_peer_ids=max_peer_ids, may_be_empty=may_be_empty)
    )


def common_as_host(run: Run, ids: psi.OwnIds) -> array[int]:
    """Find the ids that every party has; gives their positions among `ids`, in order.

    Raises:
        PSIFailedError: a check failed; it names the party.
        EmptyIntersectionError: no id is common to all.
    """
    party = party_of(run)
    total = len(ids) * len(party.peers)
    with party.in_phase("psi", total=total, unit="ids"), _signed(run, ids) as requests:
        common = _common(len(ids), [request.matches() for request in requests])
        if not common:
            raise EmptyIntersectionError(
                f"{party.name} has {len(ids)} ids and none of them is common to all parties;"
                " compare how the parties write their ids (spaces, case, leading zeros)"
            )
        for request in requests:
            request.claim(common)
    return common


def match_each(run: Run, ids: Iterable[str], *, only_common: bool) -> dict[str, set[str]]:
    """At the Host: which of `ids` each Collaborator has, by feature key.

    Args:
        run: this run.
        ids: own ids.
        only_common: let the Collaborators learn only of ids that all parties have; else each learns
            which of its own are among `ids`.

    Raises:
        PSIFailedError: a check failed; it names the party.
    """
    party, own = party_of(run), own_ids(ids)
    total = len(own) * len(party.peers)
    with party.in_phase("psi", total=total, unit="ids"), _signed(run, own) as requests:
        found = {request.name: request.matches() for request in requests}
        if only_common and found:
            found = dict.fromkeys(found, _common(len(own), list(found.values())))
        for request in requests:
            request.claim(found[request.name])
    return {name: set(own.pick(positions)) for name, positions in found.items()}


@contextmanager
def _signed(run: Run, ids: psi.OwnIds) -> Iterator[list[_Request]]:
    """Have every Collaborator sign `ids`, and take its tags."""
    party = party_of(run)
    with _kept(run), ExitStack() as stack:
        requests = [stack.enter_context(_Request(run, peer, ids)) for peer in party.peers.values()]
        for request in requests:
            request.announce()
        done = sum(request.answered for request in requests)
        while any(not request.signed for request in requests):
            for request in requests:
                request.ask()
            for request in requests:
                done += request.take_signed()
            party.progress(done)
        for request in requests:
            request.take_tags()
        yield requests


def _common(count: int, found: Sequence[array[int]]) -> array[int]:
    """Positions (of `count`) that stand in all of `found`, in order."""
    parties = bytearray(count)
    for positions in found:
        for position in positions:
            parties[position] += 1
    return array("Q", (at for at, having in enumerate(parties) if having == len(found)))


def common_as_collaborator(
    run: Run, host: Peer, ids: psi.OwnIds, *, max_peer_ids: int, may_be_empty: bool = False
) -> array[int]:
    """Take part in the Host's intersection; gives the common ids' positions among `ids`, in order.

    Args:
        run: this run.
        host: who asks.
        ids: own ids.
        max_peer_ids: how many ids the Host may have signed in all runs of this task together; it
            is counted on disk before each signature.
        may_be_empty: no common id is no error.

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
    with party.in_phase("psi", unit="ids"), _kept(run), _named(host):
        # A name that the connection does not prove is the Host's own word: it may change any day.
        asker = host.channel.party or ""
        bits: dict[str, Any] = {"bits": plan.psi_bits} if plan.psi_protocol == "rsa" else {}
        with psi.signer(
            plan.psi_protocol,
            ids,
            **bits,
            domain=_domain(run),
            budget=psi.Budget(
                (run.ledger or heterofed_home()) / "budgets",
                peer=asker,
                task=run.account_of_ids or run.task_id,
            ),
            max_peer_ids=max_peer_ids,
            kept=psi.KeptKey(run.store.psi, peer=host.name, task=run.task_id),
        ) as signer:
            party.post(host, PsiKey(len(ids)), [signer.public_key()])
            signer.precompute()
            _answer(party, host, signer)
            common = signer.positions()
        if not common and not may_be_empty:
            raise EmptyIntersectionError(f"{host.name} says that no id is common to all parties")
    return common


def _answer(party: Party, host: Peer, signer: psi.Signer) -> None:
    """Sign what the Host sends, send own tags, take its claims."""
    begin = party.take(host, PsiBegin).of(PsiBegin)
    signer.begin(begin.count, begin.done)
    signed = begin.done
    while signed < begin.count:
        mail = party.take(host, PsiBlinded)
        values = mail.of(PsiBlinded).values
        party.post(host, PsiSigned(values), [signer.sign(bytes(mail.payload))])
        signed += values
        party.progress(signed, begin.count)
    party.take(host, PsiUnblinded)  # once the tags have left, a restarted Host can ask no more
    said, tagged = party.clock(), 0
    while not signer.ready(POLL_SECONDS):
        party.pump(0)  # the Host may have ended the task
        if party.clock() - said >= NOTICE_SECONDS and signer.progress() > tagged:
            said, tagged = party.clock(), signer.progress()
            party.post(host, PsiTagged(tagged))
    for tags in signer.tags():
        party.post(host, PsiTags(len(tags) // TAG_BYTES), [tags])
    last = False
    while not last:
        mail = party.take(host, PsiMatched)
        last = mail.of(PsiMatched).last
        signer.add_proofs(bytes(mail.payload))


class _Request:
    """The Host's side of the intersection with one Collaborator."""

    def __init__(self, run: Run, peer: Peer, ids: psi.OwnIds) -> None:
        self._party: Party = party_of(run)
        self._peer = peer
        self.name = peer.name
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
                resume=psi.Resume(run.store.psi, peer=peer.name, task=run.task_id),
                **(bits if plan.psi_protocol == "rsa" else {}),
            )
            self._chunks = self._requester.blinded()
        self._width = self._requester.value_bytes
        self._asked = self.answered = self._requester.resumed

    def __enter__(self) -> _Request:
        return self

    def __exit__(self, *_: object) -> None:
        self._requester.close()

    @property
    def signed(self) -> bool:
        return self.answered == self._count

    def announce(self) -> None:
        self._party.post(self._peer, PsiBegin(self._count, self.answered))
        self._confirm()

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
        self.answered += values
        self._confirm()
        return values

    def _confirm(self) -> None:
        if self.signed:
            self._party.post(self._peer, PsiUnblinded())

    def take_tags(self) -> None:
        taken = 0
        while taken < self._peer_count:
            mail = self._party.take(self._peer, PsiTags, PsiTagged)
            if isinstance(mail.message, PsiTags):
                with _named(self._peer):
                    self._requester.add_tags(bytes(mail.payload))
                taken += mail.message.values

    def matches(self) -> array[int]:
        with _named(self._peer):
            return self._requester.positions()

    def claim(self, common: array[int]) -> None:
        for proofs in self._requester.proofs_at(common):
            self._party.post(self._peer, PsiMatched(len(proofs) // TAG_BYTES, last=False), [proofs])
        self._party.post(self._peer, PsiMatched(0, last=True))


@contextmanager
def _kept(run: Run) -> Iterator[None]:
    """Keep on disk what the intersection goes on from, unless it is over for good."""
    try:
        yield
    except OVER:
        run.store.forget_psi()
        raise
    except OSError as error:
        raise CheckpointError(
            f"{run.store.psi} or the count of signed values cannot be written or read"
            f" ({error.strerror}); make room there and start all parties again: they go on"
        ) from error


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
