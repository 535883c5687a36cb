"""Runs the PSI phase at a Collaborator, which signs the Host's blinded ids.

The cryptography is in `psi`; this module sends its bytes in messages.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psi
from heterofed.compute.packed_ids import PackedIds
from heterofed.errors import EmptyIntersectionError, PSIFailedError
from heterofed.intersection.executors import opened_executor
from heterofed.intersection.ids import check_count, files_named, own_ids, picked, tell
from heterofed.intersection.keys import Further, by_keys
from heterofed.intersection.request import TAG_BYTES, domain_of, is_void, named
from heterofed.intersection.storage import allowed_to, kept_tags, signed_for
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
from heterofed.runs.run import Run
from heterofed.runs.term_limits import check_enough
from psi.executors import Pool


def intersect_as_collaborator(
    run: Run,
    host: Peer,
    ids: Iterable[str],
    further: Further | None = None,
    *,
    max_peer_ids: int,
    predicts: bool = False,
) -> PackedIds:
    """Return the ids that every party has, by each key in the order of its ids.

    See `common_as_collaborator` and `by_keys`.
    """

    def intersect(some: Iterable[str]) -> PackedIds:
        own = own_ids(some)
        return picked(
            own,
            common_as_collaborator(run, host, own, max_peer_ids=max_peer_ids, predicts=predicts),
        )

    common = by_keys(run, ids, further, intersect)
    if not common and not predicts:
        raise _nothing(host)
    if not predicts:
        check_enough(run, len(common))
    return common


def _nothing(host: Peer) -> EmptyIntersectionError:
    return EmptyIntersectionError(
        f"{host.name} says that no id is common to all parties; compare how the parties write their"
        " ids (spaces, case, leading zeros)"
    )


def common_as_collaborator(
    run: Run, host: Peer, ids: psi.OwnIds, *, max_peer_ids: int, predicts: bool = False
) -> array[int]:
    """Take part in the Host's intersection, and return the positions of the common ids in `ids`.

    Args:
        run: this run.
        host: the Host, which requests the intersection.
        ids: the ids of this party.
        max_peer_ids: the most ids that are signed for the Host in all runs of this task together.
            They are counted on disk before they are signed.
        predicts: whether the intersection is for a prediction. Then an empty intersection is no
            error, and nothing is kept for later: the key is never written to disk.

    Raises:
        PSIFailedError: a check failed, the Host requested more than is allowed, there are more ids
            than the plan allows, or this machine cannot compute the plan's protocol.
        CheckpointError: a file that the intersection needs cannot be written or read.
    """
    party, plan = run.party, run.plan
    check_count(run, len(ids))
    try:
        psi.check_protocol(plan.psi_protocol)
    except psi.LibraryError as error:
        raise PSIFailedError(
            f"{party.name} cannot take part: {error}; or let {host.name} choose psi_protocol='rsa'",
            party=party.name,
        ) from error
    setting = "max_ids_per_day" if predicts else "max_peer_ids"
    max_peer_ids, setting = allowed_to(run, max_peer_ids, setting)
    with (
        party.in_phase("psi", unit="ids"),
        files_named(),
        named(host, party.name, setting),
        opened_executor(run) as executor,
        _signer(run, host, ids, max_peer_ids, executor, kept=not predicts) as (signer, begin),
    ):
        _answer(party, host, signer, begin)
        common = signer.positions()
        tell(run, len(common), len(ids), min(begin.count, len(ids)), expected=predicts)
        if not common and not predicts and plan.id_keys == 1:
            raise _nothing(host)
    return common


@contextmanager
def _signer(
    run: Run,
    host: Peer,
    ids: psi.OwnIds,
    max_peer_ids: int,
    executor: Pool | None,
    *,
    kept: bool,
) -> Iterator[tuple[psi.Signer, PsiBegin]]:
    """Return a signer whose key, earlier or new, the Host accepted, and the Host's request."""
    party, plan = run.party, run.plan
    keeps = kept_tags(run, host) if kept else None
    with ExitStack() as stack:

        def propose() -> psi.Signer:
            signer = _make_signer(run, host, ids, max_peer_ids, keeps, executor)
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


def _make_signer(
    run: Run,
    host: Peer,
    ids: psi.OwnIds,
    max_peer_ids: int,
    keeps: psi.KeptKey | None,
    executor: Pool | None,
) -> psi.Signer:
    """Return a signer of the plan's protocol."""
    plan = run.plan
    settings: dict[str, Any] = {
        "domain": domain_of(run, run.party.name),
        "budget": signed_for(run, host),
        "max_peer_ids": max_peer_ids,
        "executor": executor,
        "key_leaves": run.psi_executor.key_leaves,
    }
    if plan.psi_parties == "joint":
        if not run.mask_secrets:
            raise aborts.unlawful(host.name, "psi", "relayed no keys for a joint intersection")
        keyed = psi.domain(run.task_id, f"key {run.id_key}")
        shares = psi.ZeroShares(run.mask_secrets, domain=keyed)
        return psi.JointSigner(ids, shares=shares, kept=keeps, **settings)
    if plan.psi_protocol == "rsa":
        settings["bits"] = plan.psi_bits
    return psi.signer(plan.psi_protocol, ids, kept=keeps, **settings)


def _answer(party: Party, host: Peer, signer: psi.Signer, begin: PsiBegin) -> None:
    """Sign the values that the Host sends, send the own tags, and check the Host's proofs."""
    signer.begin(begin.count, begin.done)
    if begin.again and isinstance(signer, psi.JointSigner):
        signer.repeat()
    signed = begin.done
    while signed < begin.count:
        mail = party.take(host, PsiBlinded)
        party.pump(0)
        if host.lost:  # the remaining requests would be signed for nobody
            raise aborts.lost(host.name, party.phase, host.lost)
        values = mail.of(PsiBlinded).values
        party.post(host, PsiSigned(values), [signer.sign(bytes(mail.payload))])
        signer.precompute()  # starts after a request was counted, because it may compute for hours
        signed += values
        party.progress(signed, begin.count)
    # After the tags were sent, a restarted Host can request nothing more.
    party.take(host, PsiUnblinded)
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
