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

from typing import TYPE_CHECKING, Protocol

from psi.rsa.backends import gmp, openssl

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from psi.workers import Workers


class Backend(Protocol):
    """Holds one private key until `close`. Safe to call from several threads."""

    name: str

    def power_d(self, chunk: bytes) -> bytes:
        """x^d mod n for each value in `chunk`, all of n's width; each must lie in [0, n)."""

    def close(self) -> None:
        """Forget the key."""


def open_backend(key: RSAPrivateKey, workers: Workers, name: str | None = None) -> Backend:
    """The best backend on this machine, or the named one (ValueError if it is not there).

    With an executor the private operations run there, and the name is still this machine's.
    """
    here = open_here(key, workers.count, name)
    if not workers.elsewhere:
        return here
    from psi.rsa.backends.elsewhere import ExecutorBackend

    return ExecutorBackend(key, workers, here)


def open_here(key: RSAPrivateKey, workers: int, name: str | None = None) -> Backend:
    """The same, in this process."""
    if name in (None, "openssl"):
        library = openssl.find_library()
        if library is not None:
            return openssl.OpenSSLBackend(library, key, workers)
    if name in (None, "gmpy2"):
        return gmp.GMPBackend(key)
    raise ValueError(f"there is no PSI backend {name!r} on this machine")
