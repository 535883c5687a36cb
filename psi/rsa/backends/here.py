"""The backends of this process, and what each of them can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from psi.rsa.backends import gmp, openssl

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey


class Backend(Protocol):
    """Holds one private key until `close`. Safe to call from several threads."""

    name: str

    def power_d(self, chunk: bytes) -> bytes:
        """x^d mod n for each value in `chunk`, all of n's width; each must lie in [0, n)."""

    def close(self) -> None:
        """Forget the key."""


def open_here(key: RSAPrivateKey, workers: int, name: str | None = None) -> Backend:
    """The best backend of this process, or the named one (ValueError if it is not there)."""
    if name in (None, "openssl"):
        library = openssl.find_library()
        if library is not None:
            return openssl.OpenSSLBackend(library, key, workers)
    if name in (None, "gmpy2"):
        return gmp.GMPBackend(key)
    raise ValueError(f"there is no PSI backend {name!r} on this machine")
