"""Runs the private operations through an executor, to which the secret key is sent.

Each worker process caches the parsed form of the last key that it received. Use an executor only if
every machine behind it may see the key of the run. This module knows nothing of PSI.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from psi.errors import StateError
from psi.rsa.backends.encoding import from_der, to_der
from psi.rsa.backends.here import Backend, open_here

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from psi.workers import Workers


class ExecutorBackend:
    """Sends each chunk to the executor, which returns the same bytes as a local backend."""

    def __init__(self, key: RSAPrivateKey, workers: Workers, here: Backend) -> None:
        self._der: bytes | None = to_der(key)
        self._workers, self.name = workers, here.name
        self._there = b"gmpy2" if here.name == "gmpy2" else b""  # b"": the worker's best one
        here.close()

    def power_d(self, chunk: bytes) -> bytes:
        """See `psi.rsa.backends.Backend`."""
        if self._der is None:
            raise StateError("the key was closed")
        powers = self._workers.call(power_d, self._der, self._there, chunk)
        if len(powers) != len(chunk):
            raise self._workers.wrong()
        return powers

    def close(self) -> None:
        """Forget the key here. A worker forgets it when it ends or receives another key."""
        self._der = None


def power_d(der: bytes, name: bytes, chunk: bytes) -> bytes:
    """Return x^d for each value in the chunk; this function runs in the worker."""
    return _backend(der, name.decode() or None).power_d(chunk)


@lru_cache(maxsize=1)
def _backend(der: bytes, name: str | None) -> Backend:
    return open_here(from_der(der), 1, name)
