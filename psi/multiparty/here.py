"""Runs all parties of a joint intersection in this process, for trials and tests."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import combinations

from psi.hashing import domain
from psi.multiparty.requester import JointRequester, common_positions
from psi.multiparty.signer import JointSigner
from psi.multiparty.zero_shares import SECRET_BYTES, ZeroShares


def intersect_all(ids: Iterable[str], *others: Iterable[str]) -> list[str]:
    """Return the ids that all parties have, in the order of `ids`.

    Args:
        ids: the requester's ids.
        others: the ids of each signer, at least two.
    """
    run, own = secrets.token_hex(16), list(ids)
    with ExitStack() as stack:
        signers = [stack.enter_context(each) for each in make_signers(run, others)]
        requesters = [
            stack.enter_context(_asked(run, number, own, signer))
            for number, signer in enumerate(signers)
        ]
        common_positions(requesters)
        return requesters[0].intersection()


def make_signers(run: str, sets: Sequence[Iterable[str]]) -> Iterator[JointSigner]:
    """Return the signers of a run, every two of which share a fresh secret."""
    shared: list[dict[str, bytes]] = [{} for _ in sets]
    for one, other in combinations(range(len(sets)), 2):
        shared[one][str(other)] = shared[other][str(one)] = secrets.token_bytes(SECRET_BYTES)
    for number, ids in enumerate(sets):
        shares = ZeroShares(shared[number], domain=run.encode())
        yield JointSigner(ids, domain=domain(run, str(number)), shares=shares)


def _asked(run: str, number: int, ids: list[str], signer: JointSigner) -> JointRequester:
    """Return a requester that has everything of this signer."""
    asking = JointRequester(ids, signer.public_key(), signer.count, domain=domain(run, str(number)))
    signer.begin(asking.count)
    for chunk in asking.blinded():
        asking.unblind(signer.sign(chunk))
    for chunk in signer.tags():
        asking.add_tags(chunk)
    return asking
