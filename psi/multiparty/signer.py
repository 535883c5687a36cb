"""Implements a signer among several, whose requester learns only the ids that all parties have.

The calls are those of `psi.signing`. In place of the tags, `tags` returns an oblivious key-value
store. It has the share of each own id, hidden under a pad that is computed from the id's tag. A
requester that decodes it with the tag of another id obtains a value that looks random, and so does
a share by itself: a match with this signer alone cannot be seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from hashlib import blake2b

from psi.ecdh.signer import ECDHSigner
from psi.errors import ValueRefusedError
from psi.executors import Pool
from psi.hashing import TAG_BYTES
from psi.multiparty.key_value_store import Lazily, encode
from psi.multiparty.zero_shares import SHARE_BYTES, ZeroShares
from psi.signing import MAX_CHUNK
from psi.storage.budget import Budget
from psi.storage.key_store import KeptKey

_MATCH_BYTES = TAG_BYTES
_ROW = TAG_BYTES + 8


class JointSigner(ECDHSigner):
    """A signer among several, in one run with one requester.

    The key-value store is made in memory, with about 130 bytes per own id.

    With `kept`, an interrupted run continues with the same key. Its next store is either the same,
    byte by byte, if the requester has had the stores of all signers, or it is made of other shares.
    Two stores of the same shares would show whom they have in common. Therefore `shares` must have
    fresh secrets in each run.

    Args:
        ids: the ids of this party: unique strings, from any iterable, or `psi.OwnIds`.
        domain: `psi.domain(task, run)`; the requester gives the same for this signer.
        shares: the shares of this signer.
        budget: counts signed values on disk; None counts in this run only.
        max_peer_ids: the most values that are signed for this peer, over all runs of the budget.
        workers: the number of concurrent operations; None means one per usable core.
        executor: runs the work elsewhere; the key of the run and the ids are sent to it.
        scratch: the folder for temporary files; None means the system's temporary folder.
        kept: keeps the key, the own tags and the store on disk; it needs a budget.
        key_leaves: whether the key may be sent to an executor on other machines; see
            `psi.signing.Signer`.
    """

    def __init__(
        self,
        ids: Iterable[str],
        *,
        domain: bytes,
        shares: ZeroShares,
        budget: Budget | None = None,
        max_peer_ids: int = 10_000_000,
        workers: int | None = None,
        executor: Executor | Pool | str | None = None,
        scratch: str | os.PathLike[str] | None = None,
        kept: KeptKey | None = None,
        key_leaves: bool | None = None,
    ) -> None:
        self._shares = shares
        self._tagged = bytearray()  # tag and position of the own ids
        self._repeats = False
        super().__init__(
            ids,
            domain=domain,
            budget=budget,
            max_peer_ids=max_peer_ids,
            workers=workers,
            executor=executor,
            scratch=scratch,
            kept=kept,
            key_leaves=key_leaves,
        )

    def repeat(self) -> None:
        """Let `tags` return the store of an earlier object, because the requester has had those of
        all signers.

        Raises:
            ValueRefusedError: nothing was sent under this key.
        """
        if self._kept is None or not self._kept.tags_out:
            raise ValueRefusedError("a store was asked for again that was never sent")
        self._repeats = True

    def _to_send(self) -> Iterator[bytes]:
        if self._kept is not None and self._repeats:
            return _chunks(self._kept.sent())
        encoded = self._encoded()
        if self._kept is not None:
            self._kept.keep_sent(encoded)
        return _chunks(encoded)

    def _add_own(self, records: list[bytes]) -> None:
        super()._add_own(records)
        for each in records:
            self._tagged += each[:TAG_BYTES] + each[TAG_BYTES + _MATCH_BYTES :]

    def _encoded(self) -> bytes:
        return encode(Lazily(self.count, self._tag), Lazily(self.count, self._value))

    def _tag(self, number: int) -> bytes:
        return bytes(self._tagged[number * _ROW : number * _ROW + TAG_BYTES])

    def _value(self, number: int) -> int:
        row = self._tagged[number * _ROW : (number + 1) * _ROW]
        (share,) = self._shares.of(self._ids.pick([int.from_bytes(row[TAG_BYTES:], "big")]))
        return share ^ pad_of(bytes(row[:TAG_BYTES]))


def pad_of(tag: bytes) -> int:
    """Return the pad that hides the share of the id with this tag, a number of 128 bits."""
    digest = blake2b(tag, digest_size=SHARE_BYTES, person=b"psi-joint-pad")
    return int.from_bytes(digest.digest(), "little")


def _chunks(encoded: bytes) -> Iterator[bytes]:
    for at in range(0, len(encoded), MAX_CHUNK):
        yield encoded[at : at + MAX_CHUNK]
