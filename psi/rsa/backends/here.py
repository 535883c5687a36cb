"""Defines what a backend can do, and opens the backends of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from psi.rsa.backends import gmp, openssl

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey


class Backend(Protocol):
    """Holds one private key until `close`. Several threads may call it."""

    name: str

    def power_d(self, chunk: bytes) -> bytes:
        """Return x^d mod n for each value in `chunk`; each has as many bytes as n and is
        below n.
        """

    def close(self) -> None:
        """Forget the key."""


def open_here(key: RSAPrivateKey, workers: int, name: str | None = None) -> Backend:
    """Return the best backend of this process, or the named one.

    Raises:
        ValueError: there is no backend of this name on this machine.
    """
    if name in (None, "openssl"):
        library = openssl.find_library()
        if library is not None:
            return openssl.OpenSSLBackend(library, key, workers)
    if name in (None, "gmpy2"):
        return gmp.GMPBackend(key)
    raise ValueError(f"there is no PSI backend {name!r} on this machine")
