"""Lets Collaborators of a masked sum compare their gradients before they step on them.

All of them should get the same gradient, that of the sum. A Host that sends chosen gradients to
some and zeros to others would change only these parties' features, and could read them from the
sums that follow. So each Collaborator tags its gradients with each secret that it shares with
another one (`mask_keys.MaskKey.secret_with`). The Host relays the tags, but cannot make any.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256

from heterofed.messaging.aborts import unlawful


class Witness:
    """Makes and checks the tags of one Collaborator, until the parties connect again.

    Args:
        party: the feature key of this party.
        names: the feature keys of all Collaborators, in the plan's order.
        shared: the secret with each other Collaborator.
    """

    def __init__(self, party: str, names: Sequence[str], shared: Mapping[str, bytes]) -> None:
        self._party = party
        self._others = tuple(name for name in names if name != party)
        self._keys = {
            name: hmac.digest(shared[name], b"gradients", sha256) for name in self._others
        }

    def tags(self, round_number: int, batch: int, seen: bytes) -> tuple[bytes, ...]:
        """Return the tag for each other Collaborator, in the plan's order.

        Args:
            round_number: the number of the round, from 1.
            batch: the number of the batch in the round.
            seen: the digest of the gradients of that batch.
        """
        return tuple(self._tag(name, self._party, round_number, batch, seen)
                     for name in self._others)  # fmt: skip

    def check(
        self, round_number: int, batch: int, seen: bytes, tags: Sequence[bytes], host: str
    ) -> None:
        """Check the tags that the others made for this party, in the plan's order.

        Raises:
            RemoteProtocolError: one of them has other gradients; the error names the Host, which
                relays gradients and tags.
        """
        for name, tag in zip(self._others, tags, strict=True):
            if not hmac.compare_digest(tag, self._tag(name, name, round_number, batch, seen)):
                what = (
                    f"sent {name} other gradients of a masked sum than {self._party}, or had it"
                    " split other ids"
                )
                raise unlawful(host, f"train, round {round_number}, batch {batch}", what)

    def _tag(self, other: str, sees: str, round_number: int, batch: int, seen: bytes) -> bytes:
        """Return the tag by which `sees` tells another party what it has seen of a batch."""
        place = round_number.to_bytes(8, "big") + batch.to_bytes(8, "big")
        return hmac.digest(self._keys[other], place + seen + sees.encode(), sha256)
