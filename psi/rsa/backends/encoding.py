"""An RSA private key as bytes, and back. Knows nothing of PSI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey


def to_der(key: RSAPrivateKey) -> bytes:
    """The key as PKCS #1 in DER, not encrypted."""
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def from_der(der: bytes) -> RSAPrivateKey:
    """The opposite of `to_der`."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    key = serialization.load_der_private_key(der, None)
    if not isinstance(key, RSAPrivateKey):
        raise TypeError("not an RSA key")
    return key
