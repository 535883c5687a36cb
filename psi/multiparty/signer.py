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
from psi.executors import Pool
from psi.hashing import TAG_BYTES
from psi.multiparty.key_value_store import encode
from psi.multiparty.zero_shares import SHARE_BYTES, ZeroShares
from psi.signing import MAX_CHUNK
from psi.storage.budget import Budget

_MATCH_BYTES = TAG_BYTES


class JointSigner(ECDHSigner):
    """A signer among several, in one run with one requester.

    The key-value store is made in memory, with about 500 bytes per own id. The key is fresh in each
    run, so that no pad is used twice, and an interrupted run starts anew.

    Args:
        ids: the ids of this party: unique strings, from any iterable, or `psi.OwnIds`.
        domain: `psi.domain(task, run)`; the requester gives the same for this signer.
        shares: the shares of this signer.
        budget: counts signed values on disk; None counts in this run only.
        max_peer_ids: the most values that are signed for this peer, over all runs of the budget.
        workers: the number of concurrent operations; None means one per usable core.
        executor: runs the work elsewhere; the key of the run and the ids are sent to it.
        scratch: the folder for temporary files; None means the system's temporary folder.
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
        key_leaves: bool | None = None,
    ) -> None:
        self._shares = shares
        self._tagged: list[bytes] = []  # tag and position of the own ids
        super().__init__(
            ids,
            domain=domain,
            budget=budget,
            max_peer_ids=max_peer_ids,
            workers=workers,
            executor=executor,
            scratch=scratch,
            key_leaves=key_leaves,
        )

    def tags(self) -> Iterator[bytes]:
        """Wait until the own tags are computed, and return the key-value store in chunks of at most
        1 MiB.

        After that nothing is signed any more.
        """
        super().tags()  # checks that this may be called; its sorted tags are not sent
        return _chunks(self._encoded())

    def _add_own(self, records: list[bytes]) -> None:
        super()._add_own(records)
        self._tagged += [each[:TAG_BYTES] + each[TAG_BYTES + _MATCH_BYTES :] for each in records]

    def _encoded(self) -> bytes:
        tags = [each[:TAG_BYTES] for each in self._tagged]
        positions = [int.from_bytes(each[TAG_BYTES:], "big") for each in self._tagged]
        shares = self._shares.of(self._ids.pick(positions))
        values = [share ^ pad_of(tag) for share, tag in zip(shares, tags, strict=True)]
        return encode(tags, values)


def pad_of(tag: bytes) -> int:
    """Return the pad that hides the share of the id with this tag, a number of 128 bits."""
    digest = blake2b(tag, digest_size=SHARE_BYTES, person=b"psi-joint-pad")
    return int.from_bytes(digest.digest(), "little")


def _chunks(encoded: bytes) -> Iterator[bytes]:
    for at in range(0, len(encoded), MAX_CHUNK):
        yield encoded[at : at + MAX_CHUNK]
