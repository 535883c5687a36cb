"""Computes the requester's half of the RSA protocol, here or through an executor.

Nothing here is secret to this party's own executor except the ids and the blinding factors. What a
worker returns is checked as in `psi.ecdh.elsewhere`: lengths, ranges, and one id of each chunk,
drawn at random, which is computed here too. An error that would blame the peer is raised only if it
occurs here as well.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from gmpy2 import mpz

from psi.arithmetic import all_units, join, powers, split
from psi.errors import KeyRefusedError, PeerError, SignatureError, ValueRefusedError
from psi.executors.frames import pack, unpack
from psi.hashing import TAG_BYTES, RunHash
from psi.rsa.keys import E, PublicKey
from psi.workers import Workers

_PAIR = 2 * TAG_BYTES


class Blinding(Protocol):
    """Blinds ids and unblinds answers under one public key."""

    def blind(self, ids: Sequence[str], units: Sequence[mpz]) -> tuple[bytes, list[mpz]]:
        """Return the values H(id) * r^e for the units r, and H(id) of each id.

        Raises:
            KeyRefusedError: a hash shares a factor with the modulus.
        """

    def finish(self, hashes: Sequence[mpz], inverses: Sequence[mpz], signed: bytes) -> bytes:
        """Return tag and match proof of each id, from the answers, H(id) and 1/r.

        Raises:
            ValueRefusedError: an answer is out of range.
            SignatureError: an answer does not verify.
        """


def blinding(key: PublicKey, domain: bytes, workers: Workers) -> Blinding:
    """Return what blinds and unblinds in this process, or through the executor of `workers`."""
    here = Here(key, RunHash(domain, key.n))
    return Elsewhere(here, domain, workers) if workers.pooled else here


class Here:
    """Computes in this process."""

    def __init__(self, key: PublicKey, run_hash: RunHash) -> None:
        self.key, self._hash = key, run_hash

    def blind(self, ids: Sequence[str], units: Sequence[mpz]) -> tuple[bytes, list[mpz]]:
        """See `Blinding.blind`."""
        n = self.key.n
        hashes = [self._hash.of_id(text) for text in ids]
        if not all_units(hashes, n):
            # A hash that is a multiple of a small factor of n cannot be hidden by r^e.
            raise KeyRefusedError("the modulus has small factors")
        masks = powers(units, E, n)
        values = (value * mask % n for value, mask in zip(hashes, masks, strict=True))
        return join(values, self.key.width), hashes

    def finish(self, hashes: Sequence[mpz], inverses: Sequence[mpz], signed: bytes) -> bytes:
        """See `Blinding.finish`."""
        n, width = self.key.n, self.key.width
        answers = split(signed, width)
        if not all(0 < answer < n for answer in answers):
            raise ValueRefusedError("a signed value is not in [1, n)")
        pairs = zip(answers, inverses, strict=True)
        signatures = [answer * inverse % n for answer, inverse in pairs]
        if powers(signatures, E, n) != list(hashes):
            raise SignatureError("a signed value does not verify")
        found = (self._hash.tag_and_match(s.to_bytes(width, "big")) for s in signatures)
        return b"".join(tag + match for tag, match in found)


class Elsewhere:
    """Sends each chunk to the executor; the results are those of `Here`."""

    def __init__(self, here: Here, domain: bytes, workers: Workers) -> None:
        self._here, self._domain, self._workers = here, domain, workers
        self._n = join([here.key.n], here.key.width)

    def blind(self, ids: Sequence[str], units: Sequence[mpz]) -> tuple[bytes, list[mpz]]:
        """See `Blinding.blind`."""
        n, width = self._here.key.n, self._here.key.width
        packed = pack([text.encode() for text in ids])
        try:
            got = self._workers.call(blind, self._domain, self._n, packed, join(units, width))
        except PeerError:
            self._here.blind(ids, units)  # raises the same error if the peer's key is to blame
            raise self._workers.wrong() from None
        if len(got) != 2 * len(ids) * width:
            raise self._workers.wrong()
        values, hashes = split(got, width)[: len(ids)], split(got, width)[len(ids) :]
        at = secrets.randbelow(len(ids))
        value, (hashed,) = self._here.blind([ids[at]], [units[at]])
        right = values[at] == mpz.from_bytes(value, "big") and hashes[at] == hashed
        if not right or not all(0 < each < n for each in (*values, *hashes)):
            raise self._workers.wrong()
        return got[: len(ids) * width], hashes

    def finish(self, hashes: Sequence[mpz], inverses: Sequence[mpz], signed: bytes) -> bytes:
        """See `Blinding.finish`."""
        width = self._here.key.width
        both = join(hashes, width), join(inverses, width)
        try:
            got = self._workers.call(finish, self._domain, self._n, *both, signed)
        except PeerError:
            self._here.finish(hashes, inverses, signed)  # as above
            raise self._workers.wrong() from None
        at = secrets.randbelow(len(hashes))
        answer = signed[at * width : (at + 1) * width]
        right = self._here.finish([hashes[at]], [inverses[at]], answer)
        if len(got) != len(hashes) * _PAIR or got[at * _PAIR : (at + 1) * _PAIR] != right:
            raise self._workers.wrong()
        return got


def blind(domain: bytes, n: bytes, ids: bytes, units: bytes) -> bytes:
    """Return the values and then the hashes; this function runs in the worker."""
    here = _here(domain, n)
    texts = [text.decode() for text in unpack(ids)]
    values, hashes = here.blind(texts, split(units, len(n)))
    return values + join(hashes, len(n))


def finish(domain: bytes, n: bytes, hashes: bytes, inverses: bytes, signed: bytes) -> bytes:
    """See `Blinding.finish`; this function runs in the worker."""
    return _here(domain, n).finish(split(hashes, len(n)), split(inverses, len(n)), signed)


@lru_cache(maxsize=8)
def _here(domain: bytes, n: bytes) -> Here:
    modulus = mpz.from_bytes(n, "big")
    return Here(PublicKey(modulus, modulus.bit_length()), RunHash(domain, modulus))
