"""Both parties of an ECDH run in a few lines."""

from __future__ import annotations

from collections.abc import Iterable

from psi import ECDHRequester, ECDHSigner
from psi.group import scalar
from tests.psi.helpers import RUN, Outcome

KEY = 0x123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDE


def signer(ids: Iterable[str], **settings: object) -> ECDHSigner:
    chosen: dict[str, object] = {"domain": RUN, "_key": scalar(KEY), "workers": 1} | settings
    return ECDHSigner(ids, **chosen)  # type: ignore[arg-type]


def requester(ids: Iterable[str], of: ECDHSigner, **settings: object) -> ECDHRequester:
    chosen: dict[str, object] = {"domain": RUN, "workers": 1} | settings
    return ECDHRequester(ids, of.public_key(), of.count, **chosen)  # type: ignore[arg-type]


def exchange(asking: ECDHRequester, signing: ECDHSigner) -> Outcome:
    """A whole honest run."""
    signing.begin(asking.count)
    blinded = list(asking.blinded())
    signed = [signing.sign(chunk) for chunk in blinded]
    for chunk in signed:
        asking.unblind(chunk)
    tags = list(signing.tags())
    for chunk in tags:
        asking.add_tags(chunk)
    found = asking.intersection()
    proofs = list(asking.proofs(found))
    for chunk in proofs:
        assert signing.matched(chunk, last=False) is None
    return Outcome(found, signing.matched(b"", last=True), blinded, signed, tags, proofs)


def pieces(chunks: Iterable[bytes], width: int) -> list[bytes]:
    return [chunk[at : at + width] for chunk in chunks for at in range(0, len(chunk), width)]
