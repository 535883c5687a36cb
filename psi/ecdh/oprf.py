"""Computes the oblivious pseudorandom function (OPRF) of the ECDH protocol, on plain bytes.

The function is 2HashDH (Jarecki, Kiayias, Krawczyk 2014), which RFC 9497 calls the OPRF mode, with
labels of this protocol:

    H(id)   a point of ristretto255: SHAKE-256 to 64 bytes, then the map of RFC 9496. Domain:
            protocol version, "id", the caller's domain and the signer's public point B.
    s       b * H(id), for the signer's secret scalar b; B = b * G.
    tag     the first 16 bytes of SHA-256("tag" || B || s || id).
    match   the first 16 bytes of SHA-256("match" || B || s || id).

`psi.ecdh.elsewhere` runs these functions through an executor. The secrets among their arguments (b,
the unblinding scalars, the ids) are then sent to its machines.
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
    """The labels with which all hashes of one run start."""

    point: bytes
    """The signer's public point B, 32 bytes."""
    of_ids: bytes
    """The input that precedes each id in H(id)."""

    @classmethod
    def of(cls, run_domain: bytes, point: bytes) -> Labels:
        """Return the labels of a run with this domain and this public point of the signer."""
        return cls(point, prefixed(_VERSION, b"id", run_domain, point))


def make_key() -> bytes:
    """Return a fresh secret scalar b."""
    (value,) = scalars_from(secrets.token_bytes(HASH_BYTES))
    return scalar(value)


def encode_key(run_domain: bytes, point: bytes) -> bytes:
    """Return the public key for the requester.

    It is "PSE1", B, and 16 bytes by which the requester sees whether both parties gave the same
    domain.
    """
    return _MAGIC + point + _check(run_domain, point)


def read_key(blob: bytes, run_domain: bytes) -> Labels:
    """Check a peer's public key and return the labels of the run, or raise `KeyRefusedError`."""
    if len(blob) != len(_MAGIC) + POINT_BYTES + _CHECK_BYTES or not blob.startswith(_MAGIC):
        raise KeyRefusedError("this is no ECDH key of this protocol version")
    point = blob[len(_MAGIC) : len(_MAGIC) + POINT_BYTES]
    if not find_group().is_point(point):
        raise KeyRefusedError("the key is no element of the group, or is the identity")
    if blob[-_CHECK_BYTES:] != _check(run_domain, point):
        raise KeyRefusedError("the key was made for another run (the two domains differ)")
    return Labels.of(run_domain, point)


def blind(labels: Labels, ids: Sequence[str], random: bytes) -> tuple[bytes, bytes]:
    """Return r * H(id) of each id, and 1/r of each id.

    Args:
        labels: the labels of the run.
        ids: the ids.
        random: 64 uniform bytes per id, from which r is made; they must not be used again.
    """
    chosen = scalars_from(random)
    unblinding = inverses(chosen, ORDER)
    values = find_group().multiply(b"".join(map(scalar, chosen)), _points(labels, ids))
    return values, b"".join(map(scalar, unblinding))


def evaluate(key: bytes, values: bytes) -> bytes:
    """Return b times each of the peer's values, or raise `ValueRefusedError` for a bad point."""
    try:
        return find_group().multiply(key, values)
    except PointRefusedError:
        raise ValueRefusedError("a value is no element of the group, or is the identity") from None


def finish(labels: Labels, ids: Sequence[str], unblinding: bytes, signed: bytes) -> bytes:
    """Return tag and match of each id, computed from b * r * H(id) and 1/r.

    Raises:
        SignatureError: a signed value is not a point of the group, or is the identity.
    """
    try:
        masked = find_group().multiply(unblinding, signed)
    except PointRefusedError:
        raise SignatureError(
            "a signed value is no element of the group, or is the identity"
        ) from None
    return _pairs(labels, ids, masked)


def own(labels: Labels, key: bytes, ids: Sequence[str]) -> bytes:
    """Return tag and match of each of the signer's own ids."""
    try:
        masked = find_group().multiply(key, _points(labels, ids))
    except PointRefusedError:  # no hash maps to the identity, but a broken library might return it
        raise FaultError("a value of an own id came out wrong") from None
    return _pairs(labels, ids, masked)


def hash_to_points(start: bytes, ids: Sequence[str]) -> bytes:
    """Return H(id) of each id: SHAKE-256 of `start` and the id, mapped to a point by RFC 9496."""
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
