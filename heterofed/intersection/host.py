"""The PSI phase, over the protocol: the Host requests, every Collaborator signs.

The cryptography is in `psi`; here, and for the Host in `request`, its bytes are put into messages.
"""

from __future__ import annotations

import errno
import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psi
from heterofed.compute.plain import a_list, as_string
from heterofed.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EmptyIntersectionError,
    IdError,
    PSIFailedError,
)
from heterofed.intersection.request import TAG_BYTES, Request, domain_of, is_void, named
from heterofed.intersection.storage import kept_tags, signed_for
from heterofed.messaging import aborts
from heterofed.messaging.notices import NOTICE_SECONDS
from heterofed.messaging.party import POLL_SECONDS, Party
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
from heterofed.runs.run import Run, party_of, plan_of

logger = logging.getLogger("heterofed")

_FULL = (errno.ENOSPC, errno.EDQUOT)

TINY = 0.1
"""Of the smallest set: where fewer ids are in common, something is probably wrong with them."""

OVER = (PSIFailedError, DataError, ConfigError)
"""After these no intersection goes on; after a lost party or an interruption it does."""


def own_ids(ids: object, what: str = "load_local_ids") -> psi.OwnIds:
    """Check what `load_local_ids` returned; any iterable will do, and need not fit into memory.

    Args:
        ids: list-like, or a generator.
        what: names the ids in errors.

    Raises:
        IdError: not an iterable of unique strings without lone surrogates, or empty. The message
            gives counts and positions, never an id.
    """
    try:
        own = ids if isinstance(ids, psi.OwnIds) else psi.OwnIds(map(as_string, a_list(ids, what)))
    except psi.IdsError as error:
        raise IdError(
            f"{what}: {error}; ids must be unique strings, made alike at every party"
        ) from None
    if not len(own):
        raise IdError(f"{what} gave no id; there is nothing to intersect")
    return own


def intersect_as_host(run: Run, ids: Iterable[str]) -> list[str]:
    """The ids that every party has, in the order of `ids`; see `common_as_host`."""
    own = own_ids(ids)
    return own.pick(common_as_host(run, own))


def intersect_as_collaborator(
    run: Run, host: Peer, ids: Iterable[str], *, max_peer_ids: int, predicts: bool = False
) -> list[str]:
    """The ids that every party has, in the order of `ids`; see `common_as_collaborator`."""
    own = own_ids(ids)
    return own.pick(
        common_as_collaborator(run, host, own, max_peer_ids=max_peer_ids, predicts=predicts)
    )


def common_as_host(run: Run, ids: psi.OwnIds) -> array[int]:
    """Find the ids that every party has; gives their positions among `ids`, in order.

    Raises:
        PSIFailedError: a check failed, or there are more ids than the plan allows; it names the
            party.
        EmptyIntersectionError: no id is common to all.
        CheckpointError: a file that the intersection needs cannot be written or read.
    """
    party = party_of(run)
    _check_count(run, len(ids))
    total = len(ids) * len(party.peers)
    with party.in_phase("psi", total=total, unit="ids"), _signed(run, ids) as requests:
        common = _common(len(ids), [request.matches for request in requests])
        sizes = [len(ids), *(request.peer_count for request in requests)]
        _tell(len(common), len(ids), min(sizes))
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
        PSIFailedError: a check failed, or there are more ids than the plan allows; it names the
            party.
        CheckpointError: a file that the intersection needs cannot be written or read.
    """
    party, own = party_of(run), own_ids(ids)
    _check_count(run, len(own))
    total = len(own) * len(party.peers)
    with party.in_phase("psi", total=total, unit="ids"), _signed(run, own, kept=False) as requests:
        found = {request.name: request.matches for request in requests}
        if only_common and found:
            found = dict.fromkeys(found, _common(len(own), list(found.values())))
        for request in requests:
            request.claim(found[request.name])
    return {name: set(own.pick(positions)) for name, positions in found.items()}


@contextmanager
def _signed(run: Run, ids: psi.OwnIds, *, kept: bool = True) -> Iterator[list[Request]]:
    """Have every Collaborator sign `ids`, and take its tags."""
    peers = party_of(run).peers.values()
    with _files_named(), ExitStack() as stack:
        requests = [stack.enter_context(Request(run, peer, ids, kept=kept)) for peer in peers]
        for request in requests:
            request.announce()
        done = sum(request.answered for request in requests)
        while any(not request.signed for request in requests):
            for request in requests:
                request.ask()
            for request in requests:
                done += request.take_signed()
            party_of(run).progress(done)
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
    run: Run, host: Peer, ids: psi.OwnIds, *, max_peer_ids: int, predicts: bool = False
) -> array[int]:
    """Take part in the Host's intersection; gives the common ids' positions among `ids`, in order.

    Args:
        run: this run.
        host: who asks.
        ids: own ids.
        max_peer_ids: how many ids the Host may have signed in all runs of this task together; it
            is counted on disk before each signature.
        predicts: for a prediction. No common id is no error then, and nothing is kept for later:
            the key is never on disk.

    Raises:
        PSIFailedError: a check failed, the Host asks for more than it may have, there are more
            ids than the plan allows, or this machine cannot compute the plan's protocol.
        CheckpointError: a file that the intersection needs cannot be written or read.
    """
    party, plan = party_of(run), plan_of(run)
    _check_count(run, len(ids))
    try:
        psi.check_protocol(plan.psi_protocol)
    except psi.LibraryError as error:
        raise PSIFailedError(
            f"{party.name} cannot take part: {error}; or let {host.name} choose psi_protocol='rsa'",
            party=party.name,
        ) from error
    setting = "max_ids_per_day" if predicts else "max_peer_ids"
    with (
        party.in_phase("psi", unit="ids"),
        _files_named(),
        named(host, party.name, setting),
        _signer(run, host, ids, max_peer_ids, kept=not predicts) as (signer, begin),
    ):
        _answer(party, host, signer, begin)
        common = signer.positions()
        _tell(len(common), len(ids), min(begin.count, len(ids)), expected=predicts)
        if not common and not predicts:
            raise EmptyIntersectionError(f"{host.name} says that no id is common to all parties")
    return common


@contextmanager
def _signer(
    run: Run, host: Peer, ids: psi.OwnIds, max_peer_ids: int, *, kept: bool
) -> Iterator[tuple[psi.Signer, PsiBegin]]:
    """A signer whose key the Host takes, an earlier one or a new one; and what the Host asks."""
    party, plan = party_of(run), plan_of(run)
    keeps = kept_tags(run, host) if kept else None
    with ExitStack() as stack:

        def propose() -> psi.Signer:
            bits: dict[str, Any] = {"bits": plan.psi_bits} if plan.psi_protocol == "rsa" else {}
            signer = psi.signer(
                plan.psi_protocol,
                ids,
                **bits,
                domain=domain_of(run, party.name),
                budget=signed_for(run, host),
                max_peer_ids=max_peer_ids,
                kept=keeps,
            )
            stack.enter_context(signer)
            run.result.psi = {"protocol": plan.psi_protocol, "backend": signer.backend}
            party.post(host, PsiKey(len(ids), signer.kept), [signer.public_key()])
            return signer

        try:
            signer = propose()
            mail = party.take(host, PsiBegin, PsiRenew)
            if keeps is not None and isinstance(mail.message, PsiRenew):
                signer.close()
                keeps.discard()
                signer = propose()
                mail = party.take(host, PsiBegin)
            yield signer, mail.of(PsiBegin)
        except PSIFailedError as error:
            stack.close()
            if keeps is not None and is_void(error, host.name, party.name):
                keeps.discard()
            raise


def _answer(party: Party, host: Peer, signer: psi.Signer, begin: PsiBegin) -> None:
    """Sign what the Host sends, send own tags, take its claims."""
    signer.begin(begin.count, begin.done)
    signed = begin.done
    while signed < begin.count:
        mail = party.take(host, PsiBlinded)
        party.pump(0)
        if host.lost:  # what it still had asked for would be signed for nobody
            raise aborts.lost(host.name, party.phase, host.lost)
        values = mail.of(PsiBlinded).values
        party.post(host, PsiSigned(values), [signer.sign(bytes(mail.payload))])
        signer.precompute()  # not before something was counted: it may cost hours of computing
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


def _tell(common: int, own: int, smallest: int, *, expected: bool = False) -> None:
    """Say how many ids are in common, and what may be wrong where they are few."""
    logger.info("psi: %d ids in common, of %d here (%s %%)", common, own, _percent(common, own))
    if common < TINY * smallest and not expected:
        logger.warning(
            "psi: few ids are in common: %s %% of the smallest set's. Compare how the parties write"
            " them (leading zeros, spaces, case, numbers with a decimal point, another hash or"
            " salt), and whether they mean the same people and the same time",
            _percent(common, smallest),
        )


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.0f}" if share >= 1 or not part else f"{share:.2g}"


@contextmanager
def _files_named() -> Iterator[None]:
    """Say which file cannot be written or read; what was kept goes on once it can."""
    try:
        yield
    except OSError as error:
        remedy = "make room there" if error.errno in _FULL else "mend that"
        raise CheckpointError(
            f"the intersection cannot go on: {error.filename or 'a file of it'}:"
            f" {error.strerror or error}; {remedy} and start all parties again: they go on"
        ) from error


def _check_count(run: Run, count: int) -> None:
    """PSIFailedError where this party has more ids than the plan allows."""
    plan = plan_of(run)
    if count > plan.max_peer_ids:
        raise PSIFailedError(
            f"{party_of(run).name} has {count} ids and the plan of {plan.host} allows"
            f" {plan.max_peer_ids}; raise max_peer_ids there, or in the task file",
            party=plan.host,
        )
