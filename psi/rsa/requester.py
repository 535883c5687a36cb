"""Implements the requester of the protocol with RSA blind signatures.

`psi.requesting` has the order of calls, and this module adds what is specific to RSA. Each id has
its own blinding factor, uniform in Z_n*, which is kept in memory until the answer is unblinded.
Every answer is verified separately by s^e = H(id), because batch verification would let a signer
multiply in factors of small order that it can choose.
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Iterable
from typing import Unpack

from gmpy2 import mpz

from psi.arithmetic import RandomBytes, random_units
from psi.requesting import OnItsWay, Requester
from psi.rsa.blinding import blinding
from psi.rsa.keys import MAX_BITS, MIN_BITS, read_key
from psi.settings import RequesterSettings
from psi.workers import rows_of

Unblinding = tuple[list[mpz], list[mpz]]
"""H(id) of each id in an unanswered chunk, and 1/r of each."""


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
        self._key, _ = read_key(public_key, domain, *self._allowed_bits)
        self._blinding = blinding(self._key, domain, self._workers)
        return self._key.width

    def _order(self, positions: array[int], random: RandomBytes) -> None:
        """Keep the order: every answer is verified, so the order tells the signer nothing."""

    def _blind(self, ids: list[str], random: RandomBytes) -> tuple[bytes, Unblinding]:
        units, inverses = random_units(len(ids), self._key.n, random)

        def part(rows: range) -> tuple[bytes, list[mpz]]:
            return self._blinding.blind(rows_of(rows, ids), rows_of(rows, units))

        parts = self._workers.spread(part, range(len(ids)))
        hashes = [each for _, some in parts for each in some]
        return b"".join(values for values, _ in parts), (hashes, inverses)

    def _unblind(self, sent: OnItsWay[Unblinding], signed: bytes) -> bytes:
        hashes, inverses = sent.secret

        def part(rows: range) -> bytes:
            values = rows_of(rows, signed, self._key.width)
            return self._blinding.finish(rows_of(rows, hashes), rows_of(rows, inverses), values)

        return b"".join(self._workers.spread(part, range(len(hashes))))
