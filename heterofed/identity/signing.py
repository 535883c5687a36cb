"""Makes and reads the Ed25519 key with which a party signs its receipts.

The file is `$HETEROFED_HOME/keys/<party>.ed25519`, and as private as the key beside it. A task file
lists the public key, 64 hexadecimal digits, as `signing` of the party.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from heterofed.errors import ConfigError
from heterofed.files import private_folder
from heterofed.identity.keys import read_private, write_private
from heterofed.protocol.plan import PartyName


class SigningKey:
    """A party's key pair for signatures.

    Args:
        party: the feature key of the party.
        secret: the 32 secret bytes.
    """

    def __init__(self, party: str, secret: bytes) -> None:
        self.party = party
        self._key = Ed25519PrivateKey.from_private_bytes(secret)

    @property
    def public(self) -> str:
        """The public key, 64 hexadecimal digits."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message, 64 bytes."""
        return self._key.sign(message)


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    party: PartyName
    signing: str


def has_signed(public: str, message: bytes, signature: bytes) -> bool:
    """Return whether the holder of a key signed a message; all three may be of any form."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def signing_path(party: str, home: Path) -> Path:
    """Return the path of a party's signing key, whether it exists or not."""
    return home / "keys" / f"{party}.ed25519"


def make_signing_key(party: str, home: Path) -> SigningKey:
    """Return a party's signing key, and make it if there is none.

    Raises:
        ConfigError: the file cannot be read or written, or may be read by other users.
    """
    path = signing_path(party, home)
    if not path.exists() and not path.is_symlink():
        private_folder(home, "keys")
        secret = Ed25519PrivateKey.generate().private_bytes_raw().hex()
        text = (
            f"# The signing key of {party}. Anybody who has this file can sign as {party}:\n"
            "# keep it secret, and give away only the public key (heterofed keys signing).\n"
            f'party = "{party}"\nsigning = "{secret}"\n'
        )
        write_private(path, text, new=True)
    return load_signing_key(party, home)


def load_signing_key(party: str, home: Path) -> SigningKey:
    """Read a party's signing key.

    Raises:
        ConfigError: the file does not exist, is damaged, or may be read by other users.
    """
    private_folder(home, "keys", make=False)
    path = signing_path(party, home)
    try:
        kept = msgspec.toml.decode(read_private(path), type=_Kept)
        if kept.party == party:
            return SigningKey(party, bytes.fromhex(kept.signing))
    except FileNotFoundError:
        raise ConfigError(
            f"{party} has no signing key on this machine ({path}): bring it, or make one with"
            f" `heterofed keys signing {party}` and have it listed in the task file"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"the key {path} cannot be read: {error.strerror}; make it readable for this user"
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        pass
    raise ConfigError(
        f"{path} does not hold the signing key of {party}: restore it from a copy, or remove it and"
        f" make a new one with `heterofed keys signing {party}`"
    )
