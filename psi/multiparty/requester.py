"""Implements the requester's side with one of several signers, and joins what all of them sent.

There is a `JointRequester` for each signer, with the calls of `psi.requesting`, and they are joined
by `common_positions` once all key-value stores have arrived:

    blinded(), unblind(signed)  as for one signer
    add_tags(chunk)             takes the signer's key-value store
    common_positions(all)       returns the positions of the ids that all signers have
    proofs_at(positions)        yields the match proofs of these ids

What an id decodes to with one signer, or with some of them, looks random whether or not they have
it. Only if all of them have it, the shares add up to zero. Another id adds up to zero with a
probability of 2^-128.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor

from psi.ecdh.requester import ECDHRequester
from psi.errors import CountError, StateError
from psi.executors import Pool
from psi.hashing import TAG_BYTES
from psi.multiparty.key_value_store import decode, size_for
from psi.multiparty.signer import pad_of
from psi.storage.budget import Budget
from psi.storage.result_store import Resume

_PAIR = 2 * TAG_BYTES


class JointRequester(ECDHRequester):
    """The requester in one run, towards one of several signers.

    Args:
        ids: the ids of this party: unique strings, from any iterable, or `psi.OwnIds`. They are the
            same, in the same order, towards all signers.
        public_key: the signer's public key.
        peer_count: the number of ids that the signer announced.
        domain: `psi.domain(task, run)`; the signer gives the same.
        budget: counts the signer's ids on disk, because each of them lets it test one guess.
        max_peer_ids: the most ids that the signer may announce, with `budget` over all its runs.
        workers: the number of concurrent operations; None means one per usable core.
        executor: runs the work elsewhere; the ids and the blinding scalars are sent to it.
        chunk_ids: the number of ids per chunk.
        scratch: the folder for temporary files; None means the system's temporary folder.
        resume: keeps results on disk, so that an interrupted run continues.

    Raises:
        KeyRefusedError: the key is invalid.
        CountError: the signer has too many ids.
    """

    def __init__(
        self,
        ids: Iterable[str],
        public_key: bytes,
        peer_count: int,
        *,
        domain: bytes,
        budget: Budget | None = None,
        max_peer_ids: int = 10_000_000,
        workers: int | None = None,
        executor: Executor | Pool | str | None = None,
        chunk_ids: int = 2048,
        scratch: str | os.PathLike[str] | None = None,
        resume: Resume | None = None,
    ) -> None:
        super().__init__(
            ids,
            public_key,
            peer_count,
            domain=domain,
            budget=budget,
            max_peer_ids=max_peer_ids,
            workers=workers,
            executor=executor,
            chunk_ids=chunk_ids,
            scratch=scratch,
            resume=resume,
        )
        self._store = bytearray()
        self._repeats = False
        self._common: frozenset[int] | None = None
        self._decoded: list[int] | None = None

    def add_tags(self, tags: bytes, *, last: bool = False) -> None:
        """Take a chunk of the signer's key-value store; with `last`, also check that all of it
        came.

        Raises:
            CountError: it is longer than the announced number of ids needs, or ended early.
        """
        expected = size_for(self._peer_count)
        self._store += tags
        self._tags_digest.update(tags)
        if len(self._store) > expected or (last and len(self._store) != expected):
            raise CountError(
                f"{len(self._store)} bytes of a key-value store came where {expected} were expected"
            )

    @property
    def complete(self) -> bool:
        """Whether an earlier object has had the whole store under this key."""
        return self._resume is not None and self._resume.tagged

    def repeat(self) -> None:
        """Expect the store of an earlier object, byte by byte, which is not counted again.

        This is called if the requesters of all signers are `complete`, and the signers are told so
        (`JointSigner.repeat`).
        """
        self._repeats = True

    def shares(self) -> list[int]:
        """Return what each own id decodes to, in their order; it says nothing by itself.

        Raises:
            StateError: some answers, or a part of the store, have not arrived yet.
        """
        if len(self._results) != self.count or len(self._store) != size_for(self._peer_count):
            raise StateError("shares was called before all signatures and the whole store came")
        if self._decoded is None:
            self._accept_tags()
            self._decoded = self._decode()
        return self._decoded

    def _accept_tags(self) -> None:
        if self._resume is not None and not self._repeats:
            self._resume.forget_tags()
        super()._accept_tags()

    def _decode(self) -> list[int]:
        found = [0] * self.count
        for records in self._results.in_buckets():
            tags = [record[:TAG_BYTES] for record in records]
            decoded = decode(bytes(self._store), self._peer_count, tags)
            for record, tag, value in zip(records, tags, decoded, strict=True):
                found[int.from_bytes(record[_PAIR:], "big")] = value ^ pad_of(tag)
        return found

    def accept(self, common: Iterable[int]) -> None:
        """Take the positions that `common_positions` found, for `proofs_at` and `intersection`."""
        self._common = frozenset(common)

    def _matches(self) -> Iterator[tuple[int, bytes]]:
        if self._common is None:
            raise StateError("the result was asked for before common_positions was called")
        matches = [
            (position, record[TAG_BYTES:_PAIR])
            for records in self._results.in_buckets()
            for record in records
            if (position := int.from_bytes(record[_PAIR:], "big")) in self._common
        ]
        return iter(sorted(matches))


def common_positions(requesters: Sequence[JointRequester]) -> array[int]:
    """Return the positions of the own ids that all signers have, in ascending order.

    Args:
        requesters: the requester of every signer whose shares add up to zero, at least two.

    Raises:
        StateError: there are fewer than two, or something has not arrived yet.
    """
    if len(requesters) < 2 or len({each.count for each in requesters}) != 1:
        raise StateError("give the requesters of all signers, at least two, with the same ids")
    totals = requesters[0].shares()
    for each in requesters[1:]:
        totals = [total ^ share for total, share in zip(totals, each.shares(), strict=True)]
    common = array("Q", (position for position, total in enumerate(totals) if not total))
    for each in requesters:
        each.accept(common)
    return common
