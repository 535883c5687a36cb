"""Implements the requester of the protocol with RSA blind signatures.

`psi.requesting` has the order of calls, and this module adds what is specific to RSA. Each id has
its own blinding factor, uniform in Z_n*, which is kept in memory until the answer is unblinded.
Every answer is verified separately by s^e = H(id), because batch verification would let a signer
multiply in factors of small order that it can choose.
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Iterable, Sequence
from typing import Unpack

from gmpy2 import mpz

from psi.arithmetic import RandomBytes, all_units, join, powers, random_units, split
from psi.errors import KeyRefusedError, SignatureError, ValueRefusedError
from psi.requesting import OnItsWay, Requester
from psi.rsa.keys import MAX_BITS, MIN_BITS, E, read_key
from psi.settings import RequesterSettings

Unblinding = list[tuple[mpz, mpz]]
"""H(id) and 1/r of each id in an unanswered chunk."""


class RSARequester(Requester[Unblinding]):
    """The requester in one run with one signer.

    Args:
        ids: the ids of this party: unique strings, from any iterable.
        public_key: the signer's public key with its proof. The constructor raises `KeyRefusedError`
            if either is invalid.
        peer_count: the number of ids that the signer announced.
        domain: `psi.domain(task, run)`; both parties must give the same.
        min_bits: the smallest size of the modulus that is accepted.
        max_bits: the largest size of the modulus that is accepted.
        common: the arguments of `psi.requesting.Requester`.

    Tests use the private argument to set the source of random bytes.
    """

    backend = "gmpy2"

    def __init__(
        self,
        ids: Iterable[str],
        public_key: bytes,
        peer_count: int,
        *,
        domain: bytes,
        min_bits: int = MIN_BITS,
        max_bits: int = MAX_BITS,
        _random: RandomBytes = secrets.token_bytes,
        **common: Unpack[RequesterSettings],
    ) -> None:
        self._allowed_bits = min_bits, max_bits
        self._random = _random
        super().__init__(ids, public_key, peer_count, domain=domain, **common)

    def _read_key(self, public_key: bytes, domain: bytes) -> int:
        self._key, self._hash = read_key(public_key, domain, *self._allowed_bits)
        return self._key.width

    def _order(self, positions: array[int], random: RandomBytes) -> None:
        """Keep the order: every answer is verified, so the order tells the signer nothing."""

    def _blind(self, ids: list[str], random: RandomBytes) -> tuple[bytes, Unblinding]:
        units = zip(ids, *random_units(len(ids), self._key.n, random), strict=True)
        parts = self._workers.spread(self._blind_part, list(units))
        return b"".join(values for values, _ in parts), [each for _, part in parts for each in part]

    def _unblind(self, sent: OnItsWay[Unblinding], signed: bytes) -> bytes:
        values = split(signed, self._key.width)
        pairs = list(zip(values, sent.secret, strict=True))
        return b"".join(self._workers.spread(self._unblind_part, pairs))

    def _blind_part(self, drawn: Sequence[tuple[str, mpz, mpz]]) -> tuple[bytes, Unblinding]:
        n = self._key.n
        ids, blinding, unblinding = zip(*drawn, strict=True)
        hashes = [self._hash.of_id(text) for text in ids]
        if not all_units(hashes, n):
            # A hash that is a multiple of a small factor of n cannot be hidden by r^e.
            raise KeyRefusedError("the modulus has small factors")
        masks = powers(blinding, E, n)
        values = (value * mask % n for value, mask in zip(hashes, masks, strict=True))
        return join(values, self._key.width), list(zip(hashes, unblinding, strict=True))

    def _unblind_part(self, pairs: Sequence[tuple[mpz, tuple[mpz, mpz]]]) -> bytes:
        n, width = self._key.n, self._key.width
        if not all(0 < signed < n for signed, _ in pairs):
            raise ValueRefusedError("a signed value is not in [1, n)")
        signatures = [signed * inverse % n for signed, (_, inverse) in pairs]
        if powers(signatures, E, n) != [value for _, (value, _) in pairs]:
            raise SignatureError("a signed value does not verify")
        found = (self._hash.tag_and_match(s.to_bytes(width, "big")) for s in signatures)
        return b"".join(tag + match for tag, match in found)
