"""Creates the object of a party by the name of its protocol, or runs both parties at once."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from psi.hashing import domain

if TYPE_CHECKING:
    from psi.requesting import Requester
    from psi.signing import Signer

Protocol = Literal["rsa", "ecdh"]


def check_protocol(protocol: Protocol) -> None:
    """Check that this machine can compute a protocol, before anything else starts.

    Raises:
        LibraryError: a library that the protocol needs is missing.
    """
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
    raise ValueError(f"there is no protocol {protocol!r}; choose 'rsa' or 'ecdh'")


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
    raise ValueError(f"there is no protocol {protocol!r}; choose 'rsa' or 'ecdh'")


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
