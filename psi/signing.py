"""The party that signs, whatever the protocol: counts, orders and matches. No key, no socket.

The order of calls, each of which takes or gives what travels:

    public_key()                to the requester, with `count`; `precompute()` fills the wait
    begin(count)                the number of ids the requester announced
    sign(blinded) -> signed     chunk by chunk
    resume(done)                only if the requester was restarted: what it still has
    tags()                      only now, so that no guess can be tested after they are seen
    matched(proofs, last=...)   what the requester proved to hold
    close()                     forget the key

Everything from the peer is checked before it is used, and counted before it is signed. After an
error that blames the peer the object is of no further use: close it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Self

from psi.errors import BudgetError, CountError, ProofError, StateError, ValueRefusedError
from psi.hashing import TAG_BYTES
from psi.ids import OwnIds
from psi.own_tags import OwnTags
from psi.parallel import Workers
from psi.records import BUCKET_IDS, Distinct, Records, Scratch, cut, in_order

if TYPE_CHECKING:
    from psi.budget import Budget

MAX_CHUNK = 1 << 20  # bytes; the longest chunk either side sends
RESIGN_VALUES = 16_384  # values that may be signed again in a run, for restarted requesters
_INDEX = 8  # bytes of a position in a record
_SLICE = 64  # own ids per step: 3 to 16 ms, the longest that a chunk of the peer waits
_SLICE_ELSEWHERE = 512  # through an executor, where each step has to travel


class Signer(ABC):
    """What `RSASigner` and `ECDHSigner` share; their docstrings list the arguments."""

    count: int
    """Number of own ids; travels with the key."""
    backend: str
    """What computes with the secret."""

    def __init__(
        self,
        ids: Iterable[str],
        *,
        budget: Budget | None = None,
        max_peer_ids: int = 10_000_000,
        workers: int | None = None,
        executor: Executor | None = None,
        bucket_ids: int = BUCKET_IDS,
        scratch: str | os.PathLike[str] | None = None,
    ) -> None:
        self._scratch = Scratch(bucket_ids, scratch)
        self._ids = OwnIds(ids, self._scratch)
        self.count = len(self._ids)
        self._budget, self._limit = budget, max_peer_ids
        self._workers = Workers(workers, executor)
        slice_ids = _SLICE_ELSEWHERE if self._workers.elsewhere else _SLICE
        self._own = OwnTags(self._ids, self._pairs_of, self._keep, self._workers.count, slice_ids)
        self._own_tags = Records(TAG_BYTES, self.count, self._scratch, in_order)
        self._own_matches = Records(TAG_BYTES + _INDEX, self.count, self._scratch)
        self._announced: int | None = None
        self._signed = 0
        self._again = 0
        self._proofs: Distinct | None = None
        self._index_of_match: dict[bytes, int] = {}
        self._closed = False

    @abstractmethod
    def public_key(self) -> bytes:
        """The key for the requester, with what it needs to check it."""

    @abstractmethod
    def _pairs_of(self, ids: list[str]) -> bytes:
        """Tag and match proof of each id, one after the other."""

    @abstractmethod
    def _check(self, blinded: bytes) -> int:
        """The number of values in a chunk, or `ValueRefusedError`; nothing is signed yet."""

    @abstractmethod
    def _sign(self, blinded: bytes) -> bytes:
        """The values signed; what `_check` could not see is `ValueRefusedError` here."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop the key."""

    def precompute(self) -> None:
        """Start on the own tags in the background; returns at once."""
        self._require_open()
        self._own.start()

    def progress(self) -> int:
        """How many own tags are computed, of `count`."""
        return self._own.done()

    def begin(self, count: int) -> None:
        """The requester announced `count` ids; `BudgetError` if they are too many.

        Nothing is spent yet: `sign` records each chunk on disk before it signs it.
        """
        self._require_open()
        if self._announced is not None:
            raise StateError("begin was called before")
        if count < 0:
            raise CountError("a negative number of ids was announced")
        if count > self._limit:
            raise BudgetError(f"the peer announced {count} ids; allowed: {self._limit}")
        if self._budget is not None:
            self._budget.require(count, self._limit)
        self._announced = count

    def sign(self, blinded: bytes) -> bytes:
        """The next chunk of blinded values, each signed, in the same order."""
        self._require_open()
        if self._announced is None:
            raise StateError("sign was called before begin")
        if not blinded:
            raise ValueRefusedError("a chunk without values")
        values = self._check(blinded)
        total = self._signed + values
        if total > self._announced:
            raise CountError(f"{total} values to sign where {self._announced} were announced")
        if self._budget is not None:
            self._budget.spend(values, self._limit)
        self._signed = total
        with self._own.step_aside():
            return self._sign(blinded)

    def resume(self, done: int) -> None:
        """The requester was restarted and has the results of `done` values: it asks for the rest.

        What was signed and lost on the way is signed again, up to `RESIGN_VALUES` in a run:
        each of those lets the peer test one more guess. The budget counts them again.
        """
        self._require_open()
        if self._announced is None or self._proofs is not None:
            raise StateError("resume was called before begin or after tags")
        if not 0 <= done <= self._signed:
            raise CountError(f"the peer says it has {done} of {self._signed} signed values")
        again = self._again + self._signed - done
        if again > RESIGN_VALUES:
            raise BudgetError(f"{again} values to sign again; allowed in a run: {RESIGN_VALUES}")
        self._again, self._signed = again, done

    def tags(self) -> Iterator[bytes]:
        """The own tags in chunks of at most 1 MiB; waits until they are computed.

        They are sent sorted. A tag is a hash, so its order says nothing about the order of ids.
        """
        self._require_open()
        if self._announced is None or self._signed != self._announced:
            raise StateError("tags were asked for before all announced values were signed")
        if self._proofs is not None:
            raise StateError("tags was called before")
        self._own.wait()
        # Proofs are joined with the own ones bucket by bucket, so both need the same buckets.
        self._proofs = Distinct(self.count, self._scratch)
        if self._own_matches.buckets == 1:
            self._index_of_match = _indexes(self._own_matches.read(0))
        return packed(self._own_tags)

    def matched(self, proofs: bytes, *, last: bool) -> list[str] | None:
        """Check a chunk of match proofs; with the last one, the own ids that matched, in order.

        Past `bucket_ids` own ids, a wrong proof is found with the last chunk.
        """
        self._require_open()
        if self._announced is None or self._proofs is None:
            raise StateError("matched was called before tags")
        came = unpacked(proofs)
        if self._own_matches.buckets == 1 and not self._index_of_match.keys() >= set(came):
            raise ProofError("a match is claimed for an id that is not here")
        if not self._proofs.add(came):
            raise ProofError("a match is claimed twice")
        if len(self._proofs) > self._announced:
            raise ProofError(f"more matches are claimed than the {self._announced} ids asked")
        return self._ids.pick(self._claimed()) if last else None

    def _claimed(self) -> list[int]:
        """The positions of the ids whose match was proved, in order."""
        if self._proofs is None:
            return []
        claimed: list[int] = []
        for bucket in range(self._own_matches.buckets):
            proofs = self._proofs.read(bucket)
            if proofs is None:
                raise ProofError("a match is claimed twice")
            indexes = self._index_of_match or _indexes(self._own_matches.read(bucket))
            if not indexes.keys() >= proofs:
                raise ProofError("a match is claimed for an id that is not here")
            claimed.extend(indexes[proof] for proof in proofs)
        claimed.sort()
        return claimed

    def close(self) -> None:
        """Forget the key and the tags, and remove what is on disk; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._own.stop()
            self._forget()
            self._index_of_match = {}
            for records in (self._own_tags, self._own_matches):
                records.close()
            self._scratch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, start: int, pairs: bytes) -> None:
        cells = cut(pairs, TAG_BYTES)
        self._own_tags.add(cells[::2])
        self._own_matches.add(
            match + (start + number).to_bytes(_INDEX, "big")
            for number, match in enumerate(cells[1::2])
        )

    def _require_open(self) -> None:
        if self._closed:
            raise StateError("the signer was closed")


def _indexes(records: list[bytes]) -> dict[bytes, int]:
    return {each[:TAG_BYTES]: int.from_bytes(each[TAG_BYTES:], "big") for each in records}


def packed(values: Records) -> Iterator[bytes]:
    """Tags or proofs, sorted, in chunks of at most 1 MiB; nothing where there are none."""
    step = MAX_CHUNK // TAG_BYTES
    for records in values.in_buckets():
        ordered = sorted(records)
        for at in range(0, len(ordered), step):
            yield b"".join(ordered[at : at + step])


def unpacked(chunk: bytes) -> list[bytes]:
    """The 16-byte values of a chunk, or `ValueRefusedError` if one is cut short."""
    if len(chunk) % TAG_BYTES:
        raise ValueRefusedError(f"a chunk of {len(chunk)} bytes; tags and proofs have {TAG_BYTES}")
    return cut(chunk, TAG_BYTES)
