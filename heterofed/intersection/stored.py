"""Asks a stored set over the protocol, and answers from one: a small set against a large one.

The cryptography is in `psi.unequal`; this module sends its bytes in messages. The owner of the set
is the Collaborator. It has computed everything of its own ids before, and ships a filter of them,
which the Host keeps for further requests.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path

import psi
from heterofed.errors import PSIFailedError, PSILimitError
from heterofed.intersection.ids import check_count, files_named, tell
from heterofed.intersection.pace import filter_pace
from heterofed.intersection.request import CHUNKS_AHEAD, named
from heterofed.intersection.storage import TERMS, folder_for_reuse, signed_for
from heterofed.messaging import aborts
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.protocol.limits import POINT_BYTES, TAG_BYTES
from heterofed.protocol.messages import (
    StoredBegin,
    StoredBlinded,
    StoredClaims,
    StoredEvaluated,
    StoredFilter,
    StoredOffer,
    StoredReplies,
)
from heterofed.runs.run import Run

SETTING = "the limit of `heterofed psi-set allow`"


def set_domain(name: str) -> bytes:
    """Return the bytes that bind the outputs of a stored set to the name that was agreed on."""
    return psi.domain("stored set", name)


def ask_stored_set(run: Run, ids: psi.OwnIds, name: str) -> array[int]:
    """Ask the owner of a stored set, and return the positions of the common ids in `ids`.

    The filter of the set is kept on disk, and fetched if there is none of the owner's current set.

    Args:
        run: this run, in which the owner is the only Collaborator.
        ids: the ids of this party.
        name: the name of the set, on which both parties have agreed.

    Raises:
        PSIFailedError: a check failed, or the owner does not let this party ask for so many ids.
        CheckpointError: a file that the request needs cannot be written or read.
    """
    party = run.party
    (owner,) = party.peers.values()
    check_count(run, len(ids))
    with (
        party.in_phase("psi", total=len(ids), unit="ids"),
        files_named(),
        named(owner, party.name),
        closing(_current_filter(run, owner, len(ids), name)) as current,
        psi.SetAsker(ids, current, domain=set_domain(name)) as asker,
    ):
        run.result.psi = {"protocol": "stored", "backend": "libsodium"}
        _have_evaluated(party, owner, asker)
        _claim(party, owner, asker)
        common = asker.positions()
        tell(run, len(common), len(ids), min(current.count, len(ids)))
    return common


def answer_from_stored_set(
    run: Run, host: Peer, stored: psi.StoredSet, ids: psi.OwnIds | None = None
) -> array[int]:
    """Answer one request, and return the positions of the owner's ids that the Host has too.

    Args:
        run: this run.
        host: the party that asks.
        stored: the stored set.
        ids: the owner's ids, if the positions must be among them.

    Raises:
        PSILimitError: the Host may not ask, or not for so many ids; nothing was evaluated.
        PSIFailedError: a check failed, a file of the set is damaged, or `ids` are not its ids.
    """
    party = run.party
    check_count(run, stored.count)
    with (
        party.in_phase("psi", unit="ids"),
        files_named(),
        named(host, party.name, SETTING),
        _answerer(run, host, stored, ids) as answerer,
    ):
        run.result.psi = {"protocol": "stored", "backend": "libsodium"}
        size = stored.filter_path.stat().st_size
        party.post(host, StoredOffer(answerer.name, stored.count, size))
        begin = party.take(host, StoredBegin).of(StoredBegin)
        run.result.smallest_ids = min(begin.count, stored.count)
        answerer.announce(begin.count)
        if most := run.plan.limits.max_ids:
            with named(host, party.name, TERMS):
                signed_for(run, host).spend(begin.count, most)
        for chunk in stored.filter_chunks() if begin.fetch else ():
            party.post(host, StoredFilter(), [chunk])
        _evaluate(party, host, answerer, begin.count)
        _reply(party, host, answerer)
        return answerer.matched()


@contextmanager
def _answerer(
    run: Run, host: Peer, stored: psi.StoredSet, ids: psi.OwnIds | None
) -> Iterator[psi.SetAnswerer]:
    try:
        answerer = psi.SetAnswerer(stored, peer=_proven(run, host), ids=ids)
    except psi.NotAllowedError:
        raise PSILimitError(
            f"{host.name} may not ask the stored set of {run.party.name}, as nobody may by default;"
            f" run `heterofed psi-set allow FOLDER {host.name!r} NUMBER` if it should",
            party=run.party.name,
        ) from None
    with answerer:
        yield answerer


def _proven(run: Run, host: Peer) -> str:
    """Return the name under which the values of the Host are counted.

    On one machine all parties are the same user. Over a network, a name without a key is anybody's.
    """
    if not host.channel.party and run.terms:
        raise PSIFailedError(
            f"{host.name} does not prove its name, so a stored set cannot limit what it asks; give"
            " the parties of the task file keys",
            party=run.party.name,
        )
    return host.channel.party or host.name


def _current_filter(run: Run, owner: Peer, count: int, name: str) -> psi.Filter:
    """Return the filter of the owner's current set, from disk or from the owner."""
    offer = run.party.take(owner, StoredOffer).of(StoredOffer)
    run.result.smallest_ids = min(count, offer.count)
    path = _filter_path(run, owner, name)
    kept = _kept_filter(path, offer.name, set_domain(name))
    run.party.post(owner, StoredBegin(count, fetch=kept is None))
    return kept or _fetch(run, owner, offer, path, name)


def _filter_path(run: Run, owner: Peer, name: str) -> Path:
    proof = "proven" if owner.channel.party else run.task_id
    whose = "\0".join((run.party.name, proof, owner.name, name))
    return folder_for_reuse(run, "filters") / sha256(whose.encode()).hexdigest()[:32]


def _kept_filter(path: Path, name: str, domain: bytes) -> psi.Filter | None:
    """Return the filter at `path` if it is that of the set `name`, or None."""
    try:
        kept = psi.Filter(path)
        os.utime(path)  # so that its age shows when it was last used
        kept.require(domain)
    except (FileNotFoundError, psi.FilterRefusedError):
        return None
    if kept.name == name:
        return kept
    kept.close()
    return None


def _fetch(run: Run, owner: Peer, offer: StoredOffer, path: Path, name: str) -> psi.Filter:
    most, domain = run.plan.max_peer_ids, set_domain(name)
    with psi.FilterReceiver(path, domain=domain, max_peer_ids=most) as receiver:
        left, pace = offer.size, filter_pace(run, owner, offer.count)
        while left:
            chunk = bytes(run.party.take(owner, StoredFilter).payload)
            pace.check()
            receiver.add(chunk)
            left -= len(chunk)
        fetched = receiver.finish()
    if (fetched.name, fetched.count) == (offer.name, offer.count):
        return fetched
    fetched.close()
    raise psi.FilterRefusedError("the filter is not that of the set that was offered; ask again")


def _have_evaluated(party: Party, owner: Peer, asker: psi.SetAsker) -> None:
    chunks, ahead, done = asker.blinded(), 0, 0
    while done < asker.count:
        while ahead < CHUNKS_AHEAD and (chunk := next(chunks, b"")):
            party.post(owner, StoredBlinded(len(chunk) // POINT_BYTES), [chunk])
            ahead += 1
        mail = party.take(owner, StoredEvaluated)
        asker.finalize(bytes(mail.payload))
        ahead -= 1
        party.progress(done := done + mail.of(StoredEvaluated).values)


def _claim(party: Party, owner: Peer, asker: psi.SetAsker) -> None:
    for proofs in asker.proofs():
        party.post(owner, StoredClaims(len(proofs) // TAG_BYTES, last=False), [proofs])
        asker.confirm(bytes(party.take(owner, StoredReplies).payload))
    party.post(owner, StoredClaims(0, last=True))


def _evaluate(party: Party, host: Peer, answerer: psi.SetAnswerer, count: int) -> None:
    done = 0
    while done < count:
        mail = party.take(host, StoredBlinded)
        party.pump(0)
        if host.lost:  # the remaining values would be evaluated, and counted, for nobody
            raise aborts.lost(host.name, party.phase, host.lost)
        values = mail.of(StoredBlinded).values
        party.post(host, StoredEvaluated(values), [answerer.evaluate(bytes(mail.payload))])
        party.progress(done := done + values, count)


def _reply(party: Party, host: Peer, answerer: psi.SetAnswerer) -> None:
    last = False
    while not last:
        mail = party.take(host, StoredClaims)
        claims = mail.of(StoredClaims)
        last = claims.last
        if claims.values:
            replies = answerer.confirm(bytes(mail.payload))
            party.post(host, StoredReplies(claims.values), [replies])
