"""Derives what both parties of an unequal intersection compute from an id.

The output of the VOPRF (RFC 9497, `psi.ecdh.rfc9497`) has 64 bytes, of which three parts are used:

    tag     bytes 0 to 15; the filter holds its beginning.
    proof   bytes 16 to 31; the asker sends it to have a hit confirmed.
    reply   bytes 32 to 47; the owner sends it back, which proves that it holds the id.

The input is the protocol version and the domain, each after its length, and the id in UTF-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from psi.ecdh.group import find_group, scalar, scalars_from
from psi.ecdh.rfc9497 import MAX_INPUT, output_of
from psi.errors import IdsError
from psi.hashing import prefixed

PART = 16
"""The bytes of a tag, of a proof and of a reply."""

KEY_BYTES = 32

_VERSION = b"psi-unequal-1"
_NAME = 8


def inputs_of(domain: bytes, ids: Sequence[str], first: int = 0) -> list[bytes]:
    """Return the input of each id.

    Args:
        domain: the domain, which both parties must give the same.
        ids: the ids.
        first: the position of the first one, for the error.

    Raises:
        IdsError: an id is too long.
    """
    start = prefixed(_VERSION, domain)
    inputs = [start + text.encode() for text in ids]
    for position, each in enumerate(inputs, first):
        if len(each) > MAX_INPUT:
            raise IdsError(f"an id is longer than 64 KB; position (from 0): {position}")
    return inputs


def parts_of(output: bytes) -> tuple[bytes, bytes, bytes]:
    """Return tag, proof and reply of an output."""
    return output[:PART], output[PART : 2 * PART], output[2 * PART : 3 * PART]


def own_outputs(key: bytes, domain: bytes, ids: Sequence[str], first: int) -> bytes:
    """Return tag, proof and reply of each own id of the owner, joined."""
    outputs = output_of(key, inputs_of(domain, ids, first))
    return b"".join(output[: 3 * PART] for output in outputs)


def fresh_scalars(random: bytes) -> bytes:
    """Return a scalar in [1, order) for every 64 uniform bytes."""
    return b"".join(map(scalar, scalars_from(random)))


def public_of(key: bytes) -> bytes:
    """Return the public key of a secret key."""
    return find_group().base(key)


def name_of(public: bytes) -> str:
    """Return the name of the set whose outputs were made with this key, 16 hexadecimal digits."""
    return sha256(prefixed(_VERSION, b"set", public)).hexdigest()[: 2 * _NAME]


def check_of(public: bytes, domain: bytes) -> bytes:
    """Return 16 bytes that show whether both parties gave the same domain."""
    return sha256(prefixed(_VERSION, b"domain", public, domain)).digest()[:PART]
