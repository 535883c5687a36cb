"""Collaborators of a masked sum compare what gradients they got, before they step on them.

All of them get the gradient of the sum, which is one. A Host that sends chosen ones to some and
zeros to others would move these parties' features alone, and read them off the sums that follow. So
each Collaborator tags what came with each secret that it shares with another one
(`mask_keys.MaskKey.secret_with`), and the Host relays the tags: it can make none itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256

from heterofed.messaging.aborts import unlawful


class Witness:
    """What one Collaborator saw, between two meetings of the parties.

    Args:
        party: this one.
        names: of all Collaborators, in the plan's order.
        shared: the secret with each other one.
    """

    def __init__(self, party: str, names: Sequence[str], shared: Mapping[str, bytes]) -> None:
        self._party = party
        self._others = tuple(name for name in names if name != party)
        self._keys = {
            name: hmac.digest(shared[name], b"gradients", sha256) for name in self._others
        }

    def tags(self, round_number: int, batch: int, seen: bytes) -> tuple[bytes, ...]:
        """For each other Collaborator what shows it that this one saw the same.

        Args:
            round_number: from 1.
            batch: within the round.
            seen: digest of the gradients of that batch.
        """
        return tuple(self._tag(name, self._party, round_number, batch, seen)
                     for name in self._others)  # fmt: skip

    def check(
        self, round_number: int, batch: int, seen: bytes, tags: Sequence[bytes], host: str
    ) -> None:
        """Compare with what the others tagged for this party, in the plan's order.

        Raises:
            RemoteProtocolError: one of them saw something else; it names the Host, which relays
                gradients and tags.
        """
        for name, tag in zip(self._others, tags, strict=True):
            if not hmac.compare_digest(tag, self._tag(name, name, round_number, batch, seen)):
                what = (
                    f"sent {name} other gradients of a masked sum than {self._party}, or had it"
                    " split other ids"
                )
                raise unlawful(host, f"train, round {round_number}, batch {batch}", what)

    def _tag(self, other: str, sees: str, round_number: int, batch: int, seen: bytes) -> bytes:
        place = round_number.to_bytes(8, "big") + batch.to_bytes(8, "big")
        return hmac.digest(self._keys[other], place + seen + sees.encode(), sha256)
