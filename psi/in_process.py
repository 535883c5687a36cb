"""Both parties in one process: for documentation, tests and trying things out."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from psi.hashing import domain
from psi.requester import RSARequester
from psi.signer import RSASigner


def intersect(ids_a: Sequence[str], ids_b: Sequence[str]) -> list[str]:
    """The ids both lists hold, in the order of `ids_a`, found by the real protocol.

    Args:
        ids_a: the requester's ids.
        ids_b: the signer's ids.
    """
    run = domain("in-process", secrets.token_hex(16))
    with RSASigner(ids_b, domain=run) as signer:
        requester = RSARequester(ids_a, signer.public_key(), signer.count, domain=run)
        signer.begin(requester.count)
        for chunk in requester.blinded():
            requester.unblind(signer.sign(chunk))
        for chunk in signer.tags():
            requester.add_tags(chunk)
        return requester.intersection()
