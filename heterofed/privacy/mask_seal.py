"""Seals a key for another party with the secret that both share, so that the Host may carry it."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from heterofed.errors import RemoteProtocolError


def key_of(shared: Sequence[bytes]) -> bytes:
    """Return the key of 32 bytes that follows from the secrets that a party shares with others.

    It is as fresh as these, and whoever knows none of them learns nothing of it.
    """
    parts = sorted(hmac.digest(each, b"key of a sum", sha256) for each in shared)
    return sha256(b"".join(parts)).digest()


def sealed(key: bytes, secret: bytes, sender: str, receiver: str) -> bytes:
    """Return a sealed copy of a key, 48 bytes; one secret seals one key only.

    Args:
        key: the key.
        secret: the secret that both parties share.
        sender: the feature key of the party that seals.
        receiver: the feature key of the party that opens.
    """
    return _cipher(secret).encrypt(bytes(12), key, _names(sender, receiver))


def opened(copy: bytes, secret: bytes, sender: str, receiver: str) -> bytes:
    """Return the key in a sealed copy; the arguments are those of `sealed`.

    Raises:
        RemoteProtocolError: it was not sealed by `sender` for `receiver`.
    """
    try:
        return _cipher(secret).decrypt(bytes(12), copy, _names(sender, receiver))
    except InvalidTag:
        raise RemoteProtocolError(
            f"the Host relayed a key of {sender} to {receiver} that {sender} did not seal;"
            f" {RemoteProtocolError.remedy}",
            party=sender,
        ) from None


def _cipher(secret: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(hmac.digest(secret, b"seal", sha256))


def _names(sender: str, receiver: str) -> bytes:
    return sha256(sender.encode()).digest() + sha256(receiver.encode()).digest()
