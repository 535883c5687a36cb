"""Raises values to the secret exponent with gmpy2, for machines without libcrypto.

Plain `powmod` leaks its exponent through timing and caches. This module uses GMP's `mpz_powm_sec`,
which has the same instructions and memory accesses for all exponents of one size. The reductions
and the recombination around it are not constant-time. Therefore each base is first multiplied by
r^e for a secret r, and the result by 1/r, so that no timing depends on the values that the peer
sent. This module knows nothing of PSI.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import gmpy2
from gmpy2 import mpz

from psi.arithmetic import join, random_units, split
from psi.errors import StateError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_FRESH_AFTER = 32  # operations before r is drawn anew; it is squared in between, as libcrypto does


class GMPBackend:
    """Computes x^d by the Chinese remainder theorem with blinded bases and `powmod_sec`."""

    name = "gmpy2"

    def __init__(self, key: RSAPrivateKey) -> None:
        numbers = key.private_numbers()
        self._width = (key.key_size + 7) // 8
        self._e, self._n = numbers.public_numbers.e, mpz(numbers.public_numbers.n)
        self._p, self._q = mpz(numbers.p), mpz(numbers.q)
        self._dp, self._dq = mpz(numbers.dmp1), mpz(numbers.dmq1)
        self._q_inverse = mpz(numbers.iqmp)
        self._closed = False

    def power_d(self, chunk: bytes) -> bytes:
        """See `psi.rsa.backends.Backend`."""
        if self._closed:
            raise StateError("the key was closed")
        n, results = self._n, []
        with gmpy2.context(allow_release_gil=True):
            for number, value in enumerate(split(chunk, self._width)):
                if number % _FRESH_AFTER == 0:
                    (r,), (unblind,) = random_units(1, n, secrets.token_bytes)
                    blind = gmpy2.powmod(r, self._e, n)
                else:
                    blind, unblind = blind * blind % n, unblind * unblind % n
                results.append(self._crt(value * blind % n) * unblind % n)
        return join(results, self._width)

    def _crt(self, base: mpz) -> mpz:
        p, q = self._p, self._q
        of_p = gmpy2.powmod_sec(base % p, self._dp, p)
        of_q = gmpy2.powmod_sec(base % q, self._dq, q)
        return of_q + q * ((of_p - of_q) * self._q_inverse % p)

    def close(self) -> None:
        """Drop the references to the secret numbers; Python cannot overwrite them in memory."""
        self._closed = True
        self._p = self._q = self._dp = self._dq = self._q_inverse = mpz(0)
