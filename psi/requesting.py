"""The party that asks, whatever the protocol: sends, collects, matches, proves. No key, no socket.

One object per signer and run. The order of calls:

    blinded()                   chunks for the signer; several may be on their way at once
    unblind(signed)             its answers, in the same order
    add_tags(tags)              the signer's tags
    intersection()              own ids that the signer holds too; or only their positions()
    proofs(ids)                 what convinces the signer of a match, for the ids to be shared
    close()                     remove what is on disk; also done when the object is forgotten

A record of an id is its tag, its match proof and its position. Tags of both sides are joined
bucket by bucket, so that only one bucket's records are in memory at a time.
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
from psi.storage.spill import BUCKET_IDS, Distinct, Records, cut, in_order

if TYPE_CHECKING:
    from psi.storage.budget import Budget

_INDEX = 8  # bytes of a position in a record
_PAIR = 2 * TAG_BYTES

Secret = TypeVar("Secret")


@dataclass(slots=True)
class OnItsWay(Generic[Secret]):
    """A chunk without an answer: whose ids, and what unblinds them."""

    positions: Sequence[int]
    ids: list[str]
    secret: Secret


class Requester(Side, ABC, Generic[Secret]):
    """What `RSARequester` and `ECDHRequester` share.

    Args:
        ids: this party's ids: unique strings, from any iterable, or `psi.OwnIds`.
        public_key: the signer's blob; `KeyRefusedError` if it does not fit.
        peer_count: how many ids the signer announced.
        domain: `psi.domain(task, run)`, the same at both parties.
        workers: threads, or calls of the executor at once; None for one per usable core.
        executor: does the work elsewhere where that is heavy (ECDH); ids and blindings travel
            to it.
        chunk_ids: ids per chunk, cut to what fits in 1 MiB.
        max_peer_ids: the most ids the signer may announce, since their tags take room here; with
            `budget`, the most tags ever matched for this peer, over all its runs.
        budget: counts on disk the tags that are matched: each lets the peer test one guess. The
            same tags again under the same key count once, with `resume`.
        bucket_ids: more ids than this are kept in files instead of in memory.
        scratch: the folder for those files; None for the system's.
        resume: keeps results on disk, so that an interrupted run continues, and a later one with
            the same ids and the same key; blinding is then drawn from a seed in its file.
    """

    backend: str
    """What computes."""

    _random: RandomBytes
    """Where blinding comes from without `resume`."""

    value_bytes: int
    """Width of each blinded and each signed value."""

    def __init__(
        self,
        ids: Iterable[str],
        public_key: bytes,
        peer_count: int,
        *,
        domain: bytes,
        workers: int | None = None,
        executor: Executor | None = None,
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
        # Own tags, and the peer's: as many buckets for both, so that they can be joined.
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
        """Keep the peer's key, or `KeyRefusedError`; gives the width of a value."""

    @abstractmethod
    def _order(self, positions: array[int], random: RandomBytes) -> None:
        """Put the positions of the ids into the order in which they are sent."""

    @abstractmethod
    def _blind(self, ids: list[str], random: RandomBytes) -> tuple[bytes, Secret]:
        """The blinded values of ids, and what unblinds the answers."""

    @abstractmethod
    def _unblind(self, sent: OnItsWay[Secret], signed: bytes) -> bytes:
        """Tag and match proof of each id, one after the other; refuses bad answers."""

    @property
    def known(self) -> bool:
        """Whether an earlier object was there with the same key and the same ids."""
        return self._resume is not None and self._resume.known

    @property
    def resumed(self) -> int:
        """Results that an earlier, interrupted object left; the signer's `resume` wants it."""
        return self.count - len(self._todo)

    def blinded(self) -> Iterator[bytes]:
        """A blinded value for each id that has no result, chunk by chunk; made as asked for."""
        if self._started:
            raise StateError("blinded was called before; every blinding is used once")
        self._started = True
        return self._blind_all()

    def unblind(self, signed: bytes) -> None:
        """The signer's answer to the oldest chunk that has none: unblind and check it."""
        if not self._started:
            raise StateError("unblind was called before blinded")
        width = self.value_bytes
        if len(signed) % width:
            raise ValueRefusedError(f"a chunk of {len(signed)} bytes; values have {width} each")
        if not self._on_their_way:
            raise CountError("signed values came where none were outstanding")
        sent = self._on_their_way[0]
        if len(signed) != len(sent.ids) * width:
            came, asked = len(signed) // width, len(sent.ids)
            raise CountError(f"{came} signed values came as the answer to {asked}")
        pairs = cut(self._unblind(sent, signed), _PAIR)
        records = [
            pair + position.to_bytes(_INDEX, "big")
            for pair, position in zip(pairs, sent.positions, strict=True)
        ]
        if self._resume is not None:
            self._resume.append(records)
        self._results.add(records)
        self._on_their_way.popleft()

    def add_tags(self, tags: bytes, *, last: bool = False) -> None:
        """A chunk of the signer's tags; with `last`, refuse if fewer came than announced.

        Past `bucket_ids` ids, a tag that came twice is found by `intersection`.
        """
        came = unpacked(tags)
        total = len(self._peer_tags) + len(came)
        if total > self._peer_count or (last and total != self._peer_count):
            raise CountError(f"{total} tags came where {self._peer_count} were announced")
        if not self._peer_tags.add(came):
            raise ValueRefusedError("a tag came twice")
        self._tags_digest.update(tags)

    def intersection(self) -> list[str]:
        """The own ids that the signer holds too, in their own order."""
        return self._ids.pick(self.positions())

    def positions(self) -> array[int]:
        """The positions among the own ids of those that the signer holds too, in order."""
        return array("Q", (position for position, _ in self._matches()))

    def proofs(self, ids: Collection[str]) -> Iterator[bytes]:
        """Match proofs for `ids` in chunks of at most 1 MiB; nothing at all for no ids.

        `ids` may be any part of the intersection: with several signers, what all of them hold.
        The proofs are sent sorted, which says nothing about the order of ids.
        """
        wanted, found = set(ids), self.positions()
        chosen = array("Q", (at for at in found if self._ids.pick([at])[0] in wanted))
        _all_in(len(wanted), len(chosen))
        return self.proofs_at(chosen)

    def proofs_at(self, positions: Iterable[int]) -> Iterator[bytes]:
        """The same for the ids at these positions."""
        wanted = bytearray(self.count)
        for position in positions:
            wanted[position] = 1
        total = wanted.count(1)
        chosen = Records(TAG_BYTES, total, self._scratch, in_order)
        chosen.add(match for position, match in self._matches() if wanted[position])
        _all_in(total, len(chosen))
        return packed(chosen)

    def close(self) -> None:
        """Forget the results and remove what is on disk, except for what `resume` keeps."""
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
        """(position, match proof) of the common ids, in their own order."""
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
        """Random bytes for the chunk of just these positions: no two chunks share any."""
        return self._random if self._resume is None else self._resume.random(purpose)

    def _accept_tags(self) -> None:
        """Count the tags before anything of the match is known, or refuse them."""
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
            # With many signers the files of both would add up to more than a process may have.
            self._results.forget(bucket)
            self._peer_tags.forget(bucket)
        return found

    def _take_up(self, public_key: bytes, domain: bytes) -> array[int]:
        """Positions still to be sent, in the order of sending; results of before are taken in."""
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
