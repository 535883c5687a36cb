"""Encodes an RSA private key as bytes and decodes it; this module knows nothing of PSI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey


def to_der(key: RSAPrivateKey) -> bytes:
    """Return the key as unencrypted PKCS #1 in DER."""
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def from_der(der: bytes) -> RSAPrivateKey:
    """Return the key that `to_der` encoded."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    key = serialization.load_der_private_key(der, None)
    if not isinstance(key, RSAPrivateKey):
        raise TypeError("the bytes are not an RSA key")
    return key
