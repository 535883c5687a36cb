"""Raises values to the secret exponent d, the one operation that must not leak through timing.

Two backends compute the same bytes:

    openssl   libcrypto's raw RSA, which is constant-time, blinded and the fastest. It is used
              if it is found.
    gmpy2     the Chinese remainder theorem (CRT) with GMP's constant-time exponentiation and
              base blinding. It is about four times slower and always available.

`psi.rsa.backends.elsewhere` runs either of them through an executor.

Callers check every result against the public exponent (`psi.rsa.keys`). libcrypto does so too in
its CRT code, but its documentation does not promise it.
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
    """Return the best backend of this machine, or the named one.

    With an executor, the private operations run there; the name is that of this machine's backend.

    Raises:
        ValueError: there is no backend of this name on this machine.
    """
    here = open_here(key, workers.count, name)
    if not workers.pooled:
        return here
    return ExecutorBackend(key, workers, here)
