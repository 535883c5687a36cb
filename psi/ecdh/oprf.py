"""The oblivious function of the ECDH protocol, as plain functions over bytes. Knows no peer.

2HashDH (Jarecki, Kiayias, Krawczyk 2014), the "OPRF mode" of RFC 9497 with labels of our own:

    H(id)   a point of ristretto255: SHAKE-256 to 64 bytes, then the map of RFC 9496. Domain:
            protocol version, "id", the caller's domain and the signer's public point B.
    s       b * H(id), for the signer's secret scalar b; B = b * G.
    tag     the first 16 bytes of SHA-256("tag" || B || s || id).
    match   the first 16 bytes of SHA-256("match" || B || s || id).

Each function takes and gives picklable values, so that any executor can run it elsewhere; what
is secret among them (b, the unblinding scalars, ids) then goes to that executor's machines.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256, shake_256

from psi.arithmetic import inverses
from psi.ecdh.group import (
    HASH_BYTES,
    ORDER,
    POINT_BYTES,
    PointRefusedError,
    find_group,
    scalar,
    scalars_from,
)
from psi.errors import FaultError, KeyRefusedError, SignatureError, ValueRefusedError
from psi.hashing import TAG_BYTES, prefixed

_VERSION = b"psi-ecdh-1"
_MAGIC = b"PSE1"
_CHECK_BYTES = 16


@dataclass(frozen=True, slots=True)
class Labels:
    """What all hashes of one run start with."""

    point: bytes
    """B, the signer's public point."""
    of_ids: bytes

    @classmethod
    def of(cls, run_domain: bytes, point: bytes) -> Labels:
        """The labels of a run under its domain and the signer's public point."""
        return cls(point, prefixed(_VERSION, b"id", run_domain, point))


def make_key() -> bytes:
    """A fresh secret scalar b."""
    (value,) = scalars_from(secrets.token_bytes(HASH_BYTES))
    return scalar(value)


def encode_key(run_domain: bytes, point: bytes) -> bytes:
    """The blob for the requester: "PSE1", B, and 16 bytes that tell whether the domains agree."""
    return _MAGIC + point + _check(run_domain, point)


def read_key(blob: bytes, run_domain: bytes) -> Labels:
    """The labels of the run that a peer's blob begins, or `KeyRefusedError`."""
    if len(blob) != len(_MAGIC) + POINT_BYTES + _CHECK_BYTES or not blob.startswith(_MAGIC):
        raise KeyRefusedError("this is no ECDH key of this protocol version")
    point = blob[len(_MAGIC) : len(_MAGIC) + POINT_BYTES]
    if not find_group().is_point(point):
        raise KeyRefusedError("the key is no element of the group, or the identity")
    if blob[-_CHECK_BYTES:] != _check(run_domain, point):
        raise KeyRefusedError("the key was made for another run (the two domains differ)")
    return Labels.of(run_domain, point)


def blind(labels: Labels, ids: Sequence[str], random: bytes) -> tuple[bytes, bytes]:
    """Values r * H(id) and 1/r for each id; r comes from 64 bytes of `random` each, used once."""
    chosen = scalars_from(random)
    unblinding = inverses(chosen, ORDER)
    values = find_group().multiply(b"".join(map(scalar, chosen)), _points(labels, ids))
    return values, b"".join(map(scalar, unblinding))


def evaluate(key: bytes, values: bytes) -> bytes:
    """The product of b and each of the peer's values, or `ValueRefusedError`."""
    try:
        return find_group().multiply(key, values)
    except PointRefusedError:
        raise ValueRefusedError("a value is no element of the group, or the identity") from None


def finish(labels: Labels, ids: Sequence[str], unblinding: bytes, signed: bytes) -> bytes:
    """Tag and match of each id, from b * r * H(id) and 1/r; `SignatureError` for bad points."""
    try:
        masked = find_group().multiply(unblinding, signed)
    except PointRefusedError:
        raise SignatureError("a signed value is no element of the group, or the identity") from None
    return _pairs(labels, ids, masked)


def own(labels: Labels, key: bytes, ids: Sequence[str]) -> bytes:
    """Tag and match of each of the signer's ids."""
    try:
        masked = find_group().multiply(key, _points(labels, ids))
    except PointRefusedError:  # no hash gives the identity; a broken library might
        raise FaultError("a value of an own id came out wrong") from None
    return _pairs(labels, ids, masked)


def hash_to_points(start: bytes, ids: Sequence[str]) -> bytes:
    """H(id) of each id: `start` and the id through SHAKE-256, then the map of RFC 9496."""
    beginning = shake_256(start)
    hashes = []
    for text in ids:
        state = beginning.copy()
        state.update(text.encode())
        hashes.append(state.digest(HASH_BYTES))
    return find_group().from_hashes(b"".join(hashes))


def _points(labels: Labels, ids: Sequence[str]) -> bytes:
    return hash_to_points(labels.of_ids, ids)


def _pairs(labels: Labels, ids: Sequence[str], masked: bytes) -> bytes:
    tag, match = b"tag" + labels.point, b"match" + labels.point
    found = []
    for number, text in enumerate(ids):
        end = masked[number * POINT_BYTES : (number + 1) * POINT_BYTES] + text.encode()
        found.append(sha256(tag + end).digest()[:TAG_BYTES])
        found.append(sha256(match + end).digest()[:TAG_BYTES])
    return b"".join(found)


def _check(run_domain: bytes, point: bytes) -> bytes:
    return sha256(prefixed(_VERSION, b"key", run_domain, point)).digest()[:_CHECK_BYTES]
