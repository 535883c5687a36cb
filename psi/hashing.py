"""Computes all hashes of the RSA protocol, each under its own label.

This module knows bytes and the public modulus n, but no secret key and no peer. There are three
hashes, all bound to the modulus n of the run:

    H(id)   full-domain hash onto [0, n): SHAKE-256, 128 bits longer than n, reduced mod n, so
            that it is within 2^-128 of uniform. Domain: "id", the caller's domain, n.
    tag     the first 16 bytes of SHA-256("tag" || n || s), where s = H(id)^d. The signer sends
            the tags of its ids.
    match   the first 16 bytes of SHA-256("match" || n || s). Only a party that has s can
            compute it, and no tag reveals it, so it proves a match to the signer.

The challenges of the key's proof are computed by the same full-domain hash under another label.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256, shake_256
from itertools import count

from gmpy2 import mpz

TAG_BYTES = 16
_SLACK_BITS = 128
_VERSION = b"psi-rsa-1"


def domain(task_id: str, run_id: str) -> bytes:
    """Return the bytes that bind all hashes to one run of one task and to this protocol version.

    Both parties must give the same. A value that was hashed in another run then matches nothing.
    """
    return prefixed(_VERSION, task_id.encode(), run_id.encode())


def prefixed(*parts: bytes) -> bytes:
    """Join the parts, each after its length, so that different lists give different bytes."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def stream(seed: bytes, purpose: bytes) -> Callable[[int], bytes]:
    """Return a function that returns the next pseudorandom bytes at each call.

    The same arguments give the same bytes.

    Args:
        seed: 32 secret bytes.
        purpose: what the bytes are for; the bytes of two purposes are independent of each other.
    """
    calls = count()

    def draw(size: int) -> bytes:
        number = next(calls).to_bytes(8, "big")
        return shake_256(prefixed(b"psi-stream", seed, purpose, number)).digest(size)

    return draw


class RunHash:
    """The hashes of one run, which has one domain and one modulus."""

    def __init__(self, run_domain: bytes, n: mpz) -> None:
        self._n = n
        bits = n.bit_length()
        self.width = (bits + 7) // 8
        self._expanded = (bits + _SLACK_BITS + 7) // 8
        modulus = n.to_bytes(self.width, "big")
        self._of_ids = shake_256(prefixed(_VERSION, b"id", run_domain, modulus))
        self._of_proof = shake_256(prefixed(_VERSION, b"key-proof", run_domain, modulus))
        self._tag = sha256(b"tag" + modulus)
        self._match = sha256(b"match" + modulus)

    def of_id(self, text: str) -> mpz:
        """Return H(id), a number in [0, n)."""
        state = self._of_ids.copy()
        state.update(text.encode())
        return mpz.from_bytes(state.digest(self._expanded), "big") % self._n

    def challenge(self, number: int) -> mpz:
        """Return the challenge of this number in the key's proof, in [0, n)."""
        state = self._of_proof.copy()
        state.update(number.to_bytes(4, "big"))
        return mpz.from_bytes(state.digest(self._expanded), "big") % self._n

    def tag_and_match(self, signature: bytes) -> tuple[bytes, bytes]:
        """Return the tag and the match proof of a signature s, which has as many bytes as n."""
        tag, match = self._tag.copy(), self._match.copy()
        tag.update(signature)
        match.update(signature)
        return tag.digest()[:TAG_BYTES], match.digest()[:TAG_BYTES]
