"""Both parties of an ECDH run in a few lines."""

from __future__ import annotations

from collections.abc import Iterable

from psi import ECDHRequester, ECDHSigner
from psi.ecdh.group import scalar
from tests.psi.helpers import RUN

KEY = 0x123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDE


def signer(ids: Iterable[str], **settings: object) -> ECDHSigner:
    chosen: dict[str, object] = {"domain": RUN, "_key": scalar(KEY), "workers": 1} | settings
    return ECDHSigner(ids, **chosen)  # type: ignore[arg-type]


def requester(ids: Iterable[str], of: ECDHSigner, **settings: object) -> ECDHRequester:
    chosen: dict[str, object] = {"domain": RUN, "workers": 1} | settings
    return ECDHRequester(ids, of.public_key(), of.count, **chosen)  # type: ignore[arg-type]


def pieces(chunks: Iterable[bytes], width: int) -> list[bytes]:
    return [chunk[at : at + width] for chunk in chunks for at in range(0, len(chunk), width)]
