"""Raising to the secret exponent d, the one operation that must not leak through time.

Two ways, with the same bytes as result:

    openssl   libcrypto's raw RSA: constant-time, blinded, fastest. Used where it is found.
    gmpy2     CRT with GMP's constant-time exponentiation and base blinding; about four times
              slower; works wherever this package can be installed.

Either may run behind an executor, where `psi.rsa.backends.elsewhere` opens it.

Callers check every result against the public exponent themselves (`psi.rsa.keys`): libcrypto also
does so inside its CRT code, but that is not in its documented contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psi.rsa.backends.elsewhere import ExecutorBackend
from psi.rsa.backends.here import Backend, open_here

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from psi.workers import Workers


__all__ = ["Backend", "open_backend", "open_here"]


def open_backend(key: RSAPrivateKey, workers: Workers, name: str | None = None) -> Backend:
    """The best backend on this machine, or the named one (ValueError if it is not there).

    With an executor the private operations run there, and the name is still this machine's.
    """
    here = open_here(key, workers.count, name)
    if not workers.elsewhere:
        return here
    return ExecutorBackend(key, workers, here)
