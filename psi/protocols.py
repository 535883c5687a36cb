"""Creates the object of a party by the name of its protocol, or runs both parties at once."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from psi.errors import LibraryError
from psi.hashing import domain

if TYPE_CHECKING:
    from psi.requesting import Requester
    from psi.signing import Signer

Protocol = Literal["rsa", "ecdh"]

NOT_HERE = {
    "rr22": "the package spu computes it, and its last release (0.9.5) needs numpy below 2 and"
    " Python 3.10 or 3.11, so it cannot be installed beside this package; choose 'ecdh', or run spu"
    " in an environment of its own, as the guide to intersections without a task shows"
}
"""Protocols of other packages, and why no task can use them."""


def check_protocol(protocol: Protocol) -> None:
    """Check that this machine can compute a protocol, before anything else starts.

    Raises:
        LibraryError: a library that the protocol needs is missing, or cannot be there.
    """
    if protocol in NOT_HERE:
        raise LibraryError(NOT_HERE[protocol])
    if protocol == "ecdh":
        from psi.ecdh.group import find_group

        find_group()


def signer(protocol: Protocol, ids: Iterable[str], **settings: Any) -> Signer:
    """Return an `RSASigner` for "rsa" or an `ECDHSigner` for "ecdh", with the same arguments."""
    if protocol == "rsa":
        from psi.rsa.signer import RSASigner

        return RSASigner(ids, **settings)
    if protocol == "ecdh":
        from psi.ecdh.signer import ECDHSigner

        return ECDHSigner(ids, **settings)
    raise _unknown(protocol)


def requester(
    protocol: Protocol, ids: Iterable[str], public_key: bytes, peer_count: int, **settings: Any
) -> Requester[Any]:
    """Return an `RSARequester` for "rsa" or an `ECDHRequester` for "ecdh", with the same
    arguments.
    """
    if protocol == "rsa":
        from psi.rsa.requester import RSARequester

        return RSARequester(ids, public_key, peer_count, **settings)
    if protocol == "ecdh":
        from psi.ecdh.requester import ECDHRequester

        return ECDHRequester(ids, public_key, peer_count, **settings)
    raise _unknown(protocol)


def _unknown(protocol: str) -> Exception:
    if protocol in NOT_HERE:
        return LibraryError(NOT_HERE[protocol])
    return ValueError(f"there is no protocol {protocol!r}; choose 'rsa' or 'ecdh'")


def intersect(
    ids_a: Iterable[str], ids_b: Iterable[str], *, protocol: Protocol = "rsa"
) -> list[str]:
    """Run both parties in this process and return the common ids, in the order of `ids_a`.

    Args:
        ids_a: the requester's ids.
        ids_b: the signer's ids.
        protocol: "rsa" or "ecdh".
    """
    run = domain("in-process", secrets.token_hex(16))
    with (
        signer(protocol, ids_b, domain=run) as signing,
        requester(protocol, ids_a, signing.public_key(), signing.count, domain=run) as asking,
    ):
        signing.begin(asking.count)
        for chunk in asking.blinded():
            asking.unblind(signing.sign(chunk))
        for chunk in signing.tags():
            asking.add_tags(chunk)
        return asking.intersection()
