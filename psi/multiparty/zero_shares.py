"""Computes shares of zero: for every id, the shares of all signers add up to zero.

Each pair of signers has a secret. The share of a signer is the exclusive or of a keyed hash of the
id under each of its secrets (unconditional zero-sharing of Kolesnikov, Matania, Pinkas, Rosulek and
Trieu 2017). Each hash occurs in two shares, so all shares together cancel out, and any part of them
looks random to whoever lacks a secret of a pair of which one share is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from psi.hashing import prefixed

SHARE_BYTES = 16
SECRET_BYTES = 32


class ZeroShares:
    """The shares of one signer in one run.

    Args:
        secrets: the secret of 32 bytes that this signer shares with each other signer, by the
            other's name. Nobody else may know it, the requester included.
        domain: the domain of the run, the same at all parties. It makes the shares of two runs
            independent of each other.

    Raises:
        ValueError: there is no other signer, a secret has another length, or two are equal.
    """

    def __init__(self, secrets: Mapping[str, bytes], *, domain: bytes) -> None:
        if not secrets:
            raise ValueError("a signer needs the secret of at least one other signer")
        if any(len(each) != SECRET_BYTES for each in secrets.values()):
            raise ValueError(f"each secret has {SECRET_BYTES} bytes")
        if len(set(secrets.values())) != len(secrets):  # equal ones would cancel each other out
            raise ValueError("two other signers have the same secret")
        start = prefixed(b"psi-zero-share-1", domain)
        self._states = [
            blake2b(start, digest_size=SHARE_BYTES, key=secret) for secret in secrets.values()
        ]

    def of(self, ids: Sequence[str]) -> list[int]:
        """Return the share of each id, a number of 128 bits."""
        return [self._share(text.encode()) for text in ids]

    def _share(self, encoded: bytes) -> int:
        share = 0
        for start in self._states:
            state = start.copy()
            state.update(encoded)
            share ^= int.from_bytes(state.digest(), "little")
        return share
