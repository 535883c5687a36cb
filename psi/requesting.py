"""Implements the requester of both protocols: it blinds, collects answers, matches and proves.

This module knows neither keys nor sockets. Each object serves one run with one signer, and its
methods are called in this order:

    blinded()           yields chunks for the signer; several may be unanswered at once
    unblind(signed)     takes its answers, in the same order
    add_tags(tags)      takes the signer's tags
    intersection()      returns the common ids; `positions()` returns only their positions
    proofs(ids)         yields the match proofs that show the signer these common ids
    close()             removes the files; this also happens when the object is garbage-collected

The record of an id consists of its tag, its match proof and its position. The tags of both sides
are joined bucket by bucket, so that only one bucket's records are in memory at a time.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Generic, TypeVar

from psi.arithmetic import RandomBytes
from psi.errors import CountError, IdsError, StateError, ValueRefusedError
from psi.hashing import TAG_BYTES
from psi.side import Side
from psi.signing import MAX_CHUNK, packed, unpacked
from psi.storage.result_store import Resume
from psi.storage.spill import BUCKET_IDS, Distinct, Records, cut, in_order, numbered

if TYPE_CHECKING:
    from psi.executors import Pool
    from psi.storage.budget import Budget

_INDEX = 8  # bytes of a position in a record
_PAIR = 2 * TAG_BYTES

Secret = TypeVar("Secret")


@dataclass(slots=True)
class OnItsWay(Generic[Secret]):
    """A chunk that has no answer yet: its ids, their positions, and the secret that unblinds it."""

    positions: Sequence[int]
    ids: list[str]
    secret: Secret


class Requester(Side, ABC, Generic[Secret]):
    """The base of `RSARequester` and `ECDHRequester`.

    Args:
        ids: the ids of this party: unique strings, from any iterable, or `psi.OwnIds`.
        public_key: the signer's public key. The constructor raises `KeyRefusedError` if it is
            invalid.
        peer_count: the number of ids that the signer announced.
        domain: `psi.domain(task, run)`; both parties must give the same.
        workers: the number of threads, or of concurrent calls of the executor; None means one per
            usable core.
        executor: runs the expensive work elsewhere: any `concurrent.futures.Executor`, or an
            address such as "processes:8" (see `psi.executors`). The ids and the blinding factors
            are sent to it.
        chunk_ids: the number of ids per chunk; it is reduced to what fits in 1 MiB.
        max_peer_ids: the most ids that the signer may announce, because their tags take memory
            here. With `budget`, it is the most tags that are matched for this peer over all its
            runs.
        budget: counts the matched tags on disk, because each of them lets the peer test one guess.
            With `resume`, the same tags under the same key are counted once.
        bucket_ids: more ids than this are kept in files instead of in memory.
        scratch: the folder for those files; None means the system's temporary folder.
        resume: keeps results on disk. An interrupted run then continues, and a later run with the
            same ids and the same key reuses them. Blinding factors are derived from a seed in its
            file.
    """

    backend: str
    """The name of the library that computes."""

    _random: RandomBytes
    """The source of blinding factors without `resume`."""

    value_bytes: int
    """The number of bytes of each blinded and each signed value."""

    def __init__(
        self,
        ids: Iterable[str],
        public_key: bytes,
        peer_count: int,
        *,
        domain: bytes,
        workers: int | None = None,
        executor: Executor | Pool | str | None = None,
        chunk_ids: int = 2048,
        max_peer_ids: int = 100_000_000,
        bucket_ids: int = BUCKET_IDS,
        scratch: str | os.PathLike[str] | None = None,
        budget: Budget | None = None,
        resume: Resume | None = None,
    ) -> None:
        super().__init__(ids, workers, executor, bucket_ids, scratch)
        if not 0 <= peer_count <= max_peer_ids:
            raise CountError(f"the peer announced {peer_count} ids; allowed: 0 to {max_peer_ids}")
        if chunk_ids < 1:
            raise ValueError("chunk_ids must be at least 1")
        self.value_bytes = self._read_key(public_key, domain)
        self._chunk_ids = min(chunk_ids, MAX_CHUNK // self.value_bytes)
        self._peer_count = peer_count
        self._started = False
        self._on_their_way: deque[OnItsWay[Secret]] = deque()
        # Own and peer's records have the same number of buckets, so that buckets can be joined.
        most = max(self.count, peer_count)
        self._results = Records(_PAIR + _INDEX, most, self._scratch)
        self._peer_tags = Distinct(most, self._scratch)
        self._found: Records | None = None
        self._budget, self._limit, self._resume = budget, max_peer_ids, resume
        self._tags_digest = sha256()
        self._todo = self._take_up(public_key, domain)
        if budget is not None and not (resume and resume.tagged):
            budget.require(peer_count, max_peer_ids)

    @abstractmethod
    def _read_key(self, public_key: bytes, domain: bytes) -> int:
        """Store the peer's key and return the bytes of a value, or raise `KeyRefusedError`."""

    @abstractmethod
    def _order(self, positions: array[int], random: RandomBytes) -> None:
        """Put the positions of the ids into the order in which they are sent."""

    @abstractmethod
    def _blind(self, ids: list[str], random: RandomBytes) -> tuple[bytes, Secret]:
        """Return the blinded values of the ids, and the secret that unblinds the answers."""

    @abstractmethod
    def _unblind(self, sent: OnItsWay[Secret], signed: bytes) -> bytes:
        """Check the answers and return tag and match proof of each id, joined in their order."""

    @property
    def known(self) -> bool:
        """Whether the file of `resume` has the same key and the same ids from an earlier object."""
        return self._resume is not None and self._resume.known

    @property
    def resumed(self) -> int:
        """The number of results that an earlier object left; give it to the signer's `resume`."""
        return self.count - len(self._todo)

    def blinded(self) -> Iterator[bytes]:
        """Yield blinded values of the ids that have no result yet, chunk by chunk, computed
        lazily.
        """
        if self._started:
            raise StateError("blinded was called before; every blinding is used once")
        self._started = True
        return self._blind_all()

    def unblind(self, signed: bytes) -> None:
        """Check and unblind the signer's answer to the oldest unanswered chunk."""
        if not self._started:
            raise StateError("unblind was called before blinded")
        width = self.value_bytes
        if len(signed) % width:
            raise ValueRefusedError(f"a chunk has {len(signed)} bytes; each value has {width}")
        if not self._on_their_way:
            raise CountError("signed values came where none were outstanding")
        sent = self._on_their_way[0]
        if len(signed) != len(sent.ids) * width:
            came, asked = len(signed) // width, len(sent.ids)
            raise CountError(f"{came} signed values came as the answer to {asked}")
        records = numbered(cut(self._unblind(sent, signed), _PAIR), sent.positions)
        if self._resume is not None:
            self._resume.append(records)
        self._results.add(records)
        self._on_their_way.popleft()

    def add_tags(self, tags: bytes, *, last: bool = False) -> None:
        """Take a chunk of the signer's tags; with `last`, also check that all announced tags came.

        With more than `bucket_ids` ids, a repeated tag is found only by `intersection`.
        """
        came = unpacked(tags)
        total = len(self._peer_tags) + len(came)
        if total > self._peer_count or (last and total != self._peer_count):
            raise CountError(f"{total} tags came where {self._peer_count} were announced")
        if not self._peer_tags.add(came):
            raise ValueRefusedError("a tag came twice")
        self._tags_digest.update(tags)

    def intersection(self) -> list[str]:
        """Return the own ids that the signer holds too, in their own order."""
        return self._ids.pick(self.positions())

    def positions(self) -> array[int]:
        """Return the positions, among the own ids, of the common ids, in ascending order."""
        return array("Q", (position for position, _ in self._matches()))

    def proofs(self, ids: Collection[str]) -> Iterator[bytes]:
        """Return the match proofs of `ids` in chunks of at most 1 MiB; without ids there is no
        chunk.

        `ids` may be any part of the intersection. With several signers, give the ids that all of
        them hold. The proofs are sorted, so they show nothing of the order of the ids.
        """
        wanted, found = set(ids), self.positions()
        chosen = array("Q", (at for at in found if self._ids.pick([at])[0] in wanted))
        _all_in(len(wanted), len(chosen))
        return self.proofs_at(chosen)

    def proofs_at(self, positions: Iterable[int]) -> Iterator[bytes]:
        """Return the match proofs of the ids at these positions, as `proofs` does."""
        wanted = bytearray(self.count)
        for position in positions:
            wanted[position] = 1
        total = wanted.count(1)
        chosen = Records(TAG_BYTES, total, self._scratch, in_order)
        chosen.add(match for position, match in self._matches() if wanted[position])
        _all_in(total, len(chosen))
        return packed(chosen)

    def close(self) -> None:
        """Forget the results and remove the files, except for the file of `resume`."""
        self._results.close()
        self._peer_tags.close()
        if self._resume is not None:
            self._resume.close()
        super().close()

    def _blind_all(self) -> Iterator[bytes]:
        for at in range(0, len(self._todo), self._chunk_ids):
            positions = self._todo[at : at + self._chunk_ids]
            ids = self._ids.pick(positions)
            values, secret = self._blind(ids, self._source(positions.tobytes()))
            self._on_their_way.append(OnItsWay(positions, ids, secret))
            yield values

    def _matches(self) -> Iterator[tuple[int, bytes]]:
        """Yield (position, match proof) of the common ids, in their own order."""
        if len(self._results) != self.count or len(self._peer_tags) != self._peer_count:
            raise StateError("intersection was asked for before all signatures and tags came")
        if self._found is None:
            self._accept_tags()
            self._found = self._join()
        for records in self._found.in_buckets():
            records.sort()
            for record in records:
                yield int.from_bytes(record[:_INDEX], "big"), record[_INDEX:]

    def _source(self, purpose: bytes) -> RandomBytes:
        """Return the source of random bytes for one chunk; no two chunks share random bytes."""
        return self._random if self._resume is None else self._resume.random(purpose)

    def _accept_tags(self) -> None:
        """Count the tags against the budget, or refuse them, before any match is computed."""
        digest, resume = self._tags_digest.digest(), self._resume
        if resume is not None:
            resume.check_tags(digest)
        if self._budget is not None and not (resume and resume.tagged):
            self._budget.spend(self._peer_count, self._limit)
        if resume is not None:
            resume.note_tags(digest)

    def _join(self) -> Records:
        count = self.count

        def by_position(record: bytes, buckets: int) -> int:
            return int.from_bytes(record[:_INDEX], "big") * buckets // count

        found = Records(_INDEX + TAG_BYTES, count, self._scratch, by_position)
        for bucket in range(self._results.buckets):
            theirs = self._peer_tags.read(bucket)
            if theirs is None:
                raise ValueRefusedError("a tag came twice")
            found.add(
                record[_PAIR:] + record[TAG_BYTES:_PAIR]
                for record in self._results.read(bucket)
                if record[:TAG_BYTES] in theirs
            )
            # With many signers, the open files would otherwise exceed the limit of a process.
            self._results.forget(bucket)
            self._peer_tags.forget(bucket)
        return found

    def _take_up(self, public_key: bytes, domain: bytes) -> array[int]:
        """Load earlier results; return the positions still to be sent, in the order of sending."""
        have = bytearray(self.count)
        if self._resume is not None:
            bound = [public_key, domain, self.count.to_bytes(_INDEX, "big"), self._ids.digest()]
            for records in self._resume.open(bound, _PAIR + _INDEX):
                for record in records:
                    have[int.from_bytes(record[_PAIR:], "big")] = 1
                self._results.add(records)
        order = array("Q", range(self.count))
        self._order(order, self._source(b"order"))
        return array("Q", (position for position in order if not have[position]))


def _all_in(wanted: int, found: int) -> None:
    if found != wanted:
        raise IdsError(f"{wanted - found} of {wanted} ids are not in the intersection")
