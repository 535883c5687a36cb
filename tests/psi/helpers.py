"""One shared key, and both parties of a run in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from psi import Requester, RSARequester, RSASigner, Signer, domain
from psi.ecdh.group import find_group
from tests.psi import make_vectors, reference

RUN = domain("task", "run")
WIDTH = 256


@cache
def weak_key() -> reference.Key:
    return make_vectors.test_key()


def private_key(key: reference.Key) -> rsa.RSAPrivateKey:
    p, q, d = key.p, key.q, key.d
    public = rsa.RSAPublicNumbers(reference.E, key.n)
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), rsa.rsa_crt_iqmp(p, q), public
    )
    return numbers.private_key()


@cache
def shared_key() -> rsa.RSAPrivateKey:
    """Making a key takes far longer than a small run, so tests share this one."""
    return private_key(weak_key())


def wire(*values: int) -> bytes:
    return b"".join(value.to_bytes(WIDTH, "big") for value in values)


def signer(ids: Sequence[str], **settings: object) -> RSASigner:
    chosen: dict[str, object] = {"domain": RUN, "_key": shared_key(), "workers": 1} | settings
    return RSASigner(ids, **chosen)  # type: ignore[arg-type]


def requester(ids: Sequence[str], of: RSASigner, **settings: object) -> RSARequester:
    chosen: dict[str, object] = {"domain": RUN, "workers": 1} | settings
    return RSARequester(ids, of.public_key(), of.count, **chosen)  # type: ignore[arg-type]


@dataclass
class Outcome:
    intersection: list[str]
    matched: list[str] | None
    blinded: list[bytes] = field(default_factory=list)
    signed: list[bytes] = field(default_factory=list)
    tags: list[bytes] = field(default_factory=list)
    proofs: list[bytes] = field(default_factory=list)


def exchange(asking: Requester[Any], signing: Signer) -> Outcome:
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


def ready_to_match(asking: Sequence[str], signing: Sequence[str]) -> tuple[RSARequester, RSASigner]:
    """A run up to the point where matches may be claimed."""
    holder = signer(signing)
    other = requester(asking, holder)
    holder.begin(other.count)
    for chunk in other.blinded():
        other.unblind(holder.sign(chunk))
    for chunk in holder.tags():
        other.add_tags(chunk)
    return other, holder


def no_libsodium(patch: pytest.MonkeyPatch) -> None:
    """Make this machine one without the library that ECDH needs, for whoever looks for it anew."""

    def gone() -> None:
        raise OSError("no libsodium was found")

    for place in ("_system", "_bundled"):
        patch.setattr(f"psi.ecdh.group.{place}", gone)
    patch.setattr("psi.ecdh.group.find_group", find_group.__wrapped__)
