"""The secrets that pairs of Collaborators share, for masks that the Host cannot remove.

The keys of a run are fresh X25519 keys that the Host relays. If the parties know each other's
long-lived CURVE keys, these enter the secret too, so that a Host that replaces keys does not learn
it. Without them the masks protect only against a Host that relays honestly. This module loads no
torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from heterofed.errors import RemoteProtocolError
from heterofed.messaging.aborts import unlawful

KEY_BYTES = 32
"""The length of a public X25519 key in bytes."""


class MaskKey:
    """The key pair of a party in one run."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        """The public key for the other parties, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def secret_with(
        self,
        theirs: bytes,
        *,
        names: tuple[str, str],
        run: bytes,
        identities: tuple[bytes, bytes] | None = None,
    ) -> bytes:
        """Return the secret of 32 bytes that this party shares with another one.

        Args:
            theirs: the other party's `public`, as the Host relayed it.
            names: the names of this party and the other.
            run: bytes that are different in each run, so that no secret is used twice.
            identities: this party's long-lived secret key and the other's public one, 32 bytes
                each (X25519, as CURVE's are).

        Raises:
            RemoteProtocolError: the key has another length or small order, or is this party's own.
        """
        if theirs == self.public:
            raise RemoteProtocolError(
                f"the masking key of {names[1]} is that of {names[0]}, so the Host sent it"
                f" back; {RemoteProtocolError.remedy}",
                party=names[1],
            )
        shared = _agreed(self._private, theirs, names[1])
        if identities is not None:
            own, other = identities
            shared += _agreed(X25519PrivateKey.from_private_bytes(own), other, names[1])
        ends = sorted([(names[0].encode(), self.public), (names[1].encode(), theirs)])
        told = b"".join(len(part).to_bytes(4, "big") + part for end in ends for part in end)
        return HKDF(SHA256(), KEY_BYTES, salt=run, info=b"heterofed mask 1" + told).derive(shared)


def check_keys(keys: Mapping[str, bytes]) -> None:
    """Check the keys of all Collaborators before they are relayed.

    Args:
        keys: the public key of each Collaborator, by feature key.

    Raises:
        RemoteProtocolError: a key has another length or small order, or is another party's.
    """
    throwaway, seen = X25519PrivateKey.generate(), dict[bytes, str]()
    for name, key in keys.items():
        try:
            _agreed(throwaway, key, name)
        except RemoteProtocolError:
            raise unlawful(name, "join", "sent no valid masking key") from None
        if other := seen.get(key):
            raise unlawful(name, "join", f"sent the masking key of {other}")
        seen[key] = name


def _agreed(private: X25519PrivateKey, public: bytes, party: str) -> bytes:
    """Return the secret that a pair of parties shares (X25519).

    Raises:
        RemoteProtocolError: the public key is of low order.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise RemoteProtocolError(
            f"{party} sent no valid masking key; {RemoteProtocolError.remedy}", party=party
        ) from None
