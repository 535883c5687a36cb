"""Implements the signer of both protocols: it counts, orders and matches.

This module knows neither keys nor sockets. The methods take and return the bytes that travel, and
are called in this order:

    public_key()                returns the key for the requester, which also gets `count`;
                                `precompute()` uses the time until the requester answers
    begin(count)                takes the number of ids that the requester announced
    sign(blinded) -> signed     signs one chunk after another
    resume(done)                is called only if the requester was restarted, with the number of
                                values that it still has
    tags()                      returns the tags only now, so that no guess can be tested after
                                the requester has seen them
    matched(proofs, last=...)   returns the own ids that the requester proved to hold
    close()                     forgets the key

With `kept`, a restarted signer continues too; `begin(count, done)` then takes the number of values
that the requester still has. If the answer to a recently signed chunk was lost, the requester sends
the same bytes again. It is entitled to these signatures: they tell it nothing new and are counted
once.

Everything from the peer is checked before it is used, and counted before it is signed. After an
error that blames the peer, the object cannot be used any further and must be closed.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from hashlib import sha256
from typing import TYPE_CHECKING

from psi.errors import (
    BudgetError,
    CountError,
    LimitError,
    ProofError,
    StateError,
    ValueRefusedError,
)
from psi.executors import check_key
from psi.hashing import TAG_BYTES
from psi.own_tags import OwnTags
from psi.side import Side
from psi.storage.key_store import RECENT_CHUNKS
from psi.storage.spill import BUCKET_IDS, Distinct, Records, cut, in_order, numbered

if TYPE_CHECKING:
    from psi.executors import Pool
    from psi.storage.budget import Budget
    from psi.storage.key_store import KeptKey

MAX_CHUNK = 1 << 20  # bytes of the longest chunk that either side sends
RESIGN_VALUES = 16_384  # values that may be signed again in a run, for restarted requesters
_INDEX = 8  # bytes of a position in a record
_PAIR = 2 * TAG_BYTES
_SLICE = 64  # own ids per step, which takes 3 to 16 ms; a chunk of the peer waits for one step
_SLICE_ELSEWHERE = 512  # own ids per step through an executor, to which each step is sent


class Signer(Side, ABC):
    """The base of `RSASigner` and `ECDHSigner`.

    Args:
        ids: the ids of this party: unique strings, from any iterable, or `psi.OwnIds`.
        bound: the protocol, the domain and everything else that the key of the run belongs to.
        budget: counts signed values on disk; None counts in this run only.
        max_peer_ids: the most values that are signed for this peer, over all runs of the budget.
        workers: the number of concurrent operations; None means one per usable core.
        executor: runs the work elsewhere: any `concurrent.futures.Executor`, or an address such as
            "processes:8" (see `psi.executors`). The key of the run is sent to it, and with ECDH the
            ids too.
        bucket_ids: more ids than this are kept in files instead of in memory.
        scratch: the folder for those files; None means the system's temporary folder.
        kept: keeps the key and the own tags on disk, for a restart or for later runs; it needs a
            budget.
        key_leaves: whether the key may be sent to an executor on other machines. None allows it for
            an executor object, and refuses it for an address.
    """

    backend: str
    """The name of the library that computes; "kept tags" if nothing is left to compute."""

    def __init__(
        self,
        ids: Iterable[str],
        bound: Sequence[bytes],
        *,
        budget: Budget | None = None,
        max_peer_ids: int = 10_000_000,
        workers: int | None = None,
        executor: Executor | Pool | str | None = None,
        bucket_ids: int = BUCKET_IDS,
        scratch: str | os.PathLike[str] | None = None,
        kept: KeptKey | None = None,
        key_leaves: bool | None = None,
    ) -> None:
        check_key(executor, key_leaves)
        if kept is not None and budget is None:
            raise ValueError("kept needs a budget, which counts over all restarts and runs")
        super().__init__(ids, workers, executor, bucket_ids, scratch)
        self._budget, self._limit, self._kept = budget, max_peer_ids, kept
        self._own_tags = Records(TAG_BYTES, self.count, self._scratch, in_order)
        self._own_matches = Records(TAG_BYTES + _INDEX, self.count, self._scratch)
        self._announced: int | None = None
        self._signed = 0  # of the announced values
        self._signed_in_all = 0  # in this run, including values that were signed again
        self._recent: deque[bytes] = deque(maxlen=RECENT_CHUNKS) if kept is None else kept.recent
        # Digests of chunks whose answers may not have reached the requester.
        self._lost: set[bytes] = set()
        self._proofs: Distinct | None = None
        self._index_of_match: dict[bytes, int] = {}
        self._closed = False
        self._former_key, todo = self._take_up(bound)
        slice_ids = _SLICE_ELSEWHERE if self._workers.pooled else _SLICE
        self._own = OwnTags(
            self._ids, todo, self._pairs_of, self._deliver, self._workers.count, slice_ids
        )

    @abstractmethod
    def public_key(self) -> bytes:
        """Return the public key for the requester, with everything that it needs to check the
        key.
        """

    @abstractmethod
    def _pairs_of(self, ids: list[str]) -> bytes:
        """Return tag and match proof of each id, joined in their order."""

    @abstractmethod
    def _check(self, blinded: bytes, *, again: bool) -> int:
        """Check a chunk before it is signed, and return the number of its values.

        Args:
            blinded: the chunk.
            again: whether the chunk was checked and signed before.

        Raises:
            ValueRefusedError: the chunk or a value is malformed, or a value is repeated.
        """

    @abstractmethod
    def _sign(self, blinded: bytes) -> bytes:
        """Sign the values; raise `ValueRefusedError` for a bad value that `_check` could not
        detect.
        """

    @abstractmethod
    def _forget(self) -> None:
        """Forget the key."""

    @property
    def kept(self) -> bool:
        """Whether the key was made by an earlier object and loaded from disk."""
        return self._kept is not None and self._kept.kept

    def precompute(self) -> None:
        """Start to compute the own tags in the background, and return at once."""
        self._require_open()
        self._own.start()

    def progress(self) -> int:
        """Return how many of the `count` own tags are computed."""
        return self._own.done()

    def ready(self, seconds: float) -> bool:
        """Wait at most this long, and return whether `tags` can begin without another wait."""
        self._require_open()
        return self._own.ready(seconds)

    def begin(self, count: int, done: int = 0) -> None:
        """Note the number of ids that the requester announced.

        Nothing is counted against the budget yet: `sign` records each chunk on disk before it signs
        it.

        Args:
            count: the number of the requester's ids.
            done: the number of its ids that have results from before this signer was restarted.

        Raises:
            BudgetError: the requester announced too many ids.
            CountError: the numbers are impossible.
        """
        self._require_open()
        if self._announced is not None:
            raise StateError("begin was called before")
        if count < 0:
            raise CountError("a negative number of ids was announced")
        if count > self._limit:
            raise LimitError(f"the peer announced {count} ids; allowed: {self._limit}")
        if self._budget is not None:
            if self._kept is not None:
                self._signed_in_all = self._kept.signed_before(self._budget.spent())
            # Values that are asked for again unchanged cost nothing; `sign` counts the others.
            self._budget.require(max(0, count - max(done, self._signed_in_all)), self._limit)
        self._announced = count
        self._go_on_from(done)

    def sign(self, blinded: bytes) -> bytes:
        """Sign the next chunk of blinded values, and return the signed values in the same order."""
        self._require_open()
        if self._announced is None:
            raise StateError("sign was called before begin")
        if self._kept is not None and self._kept.tags_out:
            raise BudgetError("the tags have left, so nothing more is signed; begin a new run")
        if not blinded:
            raise ValueRefusedError("a chunk has no values")
        digest = sha256(blinded).digest()
        again = digest in self._lost
        values = self._check(blinded, again=again)
        total = self._signed + values
        if total > self._announced:
            raise CountError(
                f"the peer sent {total} values to sign where {self._announced} were announced"
            )
        if again:
            self._lost.remove(digest)
        else:
            if self._budget is not None:
                self._budget.spend(values, self._limit)
            self._note_signed(digest)
            self._signed_in_all += values
        self._signed = total
        if self._workers.pooled:  # an executor has its own order, and perhaps room for both
            return self._sign(blinded)
        with self._own.step_aside():
            return self._sign(blinded)

    def resume(self, done: int) -> None:
        """Continue with a requester that was restarted and has the results of `done` values.

        The requester asks for the rest again. If it then sends other values than before, at most
        `RESIGN_VALUES` of them are signed in a run. Each of these lets the peer test one more
        guess, and is counted.
        """
        self._require_open()
        if self._announced is None or self._proofs is not None:
            raise StateError("resume was called before begin or after tags")
        self._go_on_from(done)

    def tags(self) -> Iterator[bytes]:
        """Wait until the own tags are computed, and return them in chunks of at most 1 MiB.

        After that nothing is signed any more, not even after a restart with `kept`. Therefore a
        requester that keeps results should first confirm that it has all of them.

        The tags are sorted. A tag is a hash, so this order says nothing about the order of the ids.
        """
        self._require_open()
        if self._announced is None or self._signed != self._announced:
            raise StateError("tags were asked for before all announced values were signed")
        if self._proofs is not None:
            raise StateError("tags was called before")
        self._own.wait()
        answer = self._to_send()
        if self._kept is not None:
            self._kept.note_tags_out()
        # Proofs are compared with the own ones bucket by bucket, so both have equally many buckets.
        self._proofs = Distinct(self.count, self._scratch)
        if self._own_matches.buckets == 1:
            self._index_of_match = _indexes(self._own_matches.read(0))
        return answer

    def matched(self, proofs: bytes, *, last: bool) -> list[str] | None:
        """Check a chunk of match proofs; after the last one, return the matched own ids in order.

        With more than `bucket_ids` own ids, a wrong proof is found only with the last chunk.
        """
        self.add_proofs(proofs)
        return self._ids.pick(self.positions()) if last else None

    def add_proofs(self, proofs: bytes) -> None:
        """Check a chunk of match proofs. `positions` then returns the ids that all chunks prove."""
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

    def positions(self) -> array[int]:
        """Return the positions, among the own ids, of the proved matches, in ascending order."""
        if self._proofs is None:
            raise StateError("positions was called before tags")
        claimed = bytearray(self.count)
        for bucket in range(self._own_matches.buckets):
            proofs = self._proofs.read(bucket)
            if proofs is None:
                raise ProofError("a match is claimed twice")
            indexes = self._index_of_match or _indexes(self._own_matches.read(bucket))
            if not indexes.keys() >= proofs:
                raise ProofError("a match is claimed for an id that is not here")
            for proof in proofs:
                claimed[indexes[proof]] = 1
        return array("Q", (position for position, one in enumerate(claimed) if one))

    def close(self) -> None:
        """Forget the key and the tags, and remove the files, except for those of `kept`."""
        if not self._closed:
            self._closed = True
            self._own.stop()
            self._forget()
            self._index_of_match = {}
            for records in (self._own_tags, self._own_matches):
                records.close()
            if self._proofs is not None:
                self._proofs.close()
            if self._kept is not None:
                self._kept.close()
            super().close()

    def _take_up(self, bound: Sequence[bytes]) -> tuple[bytes | None, Sequence[int]]:
        """Return the secret key from disk, if any, and the positions of own ids without a tag."""
        if self._kept is None:
            return None, range(self.count)
        have = bytearray(self.count)

        def take(records: list[bytes]) -> None:
            self._add_own(records)
            for record in records:
                have[int.from_bytes(record[_PAIR:], "big")] = 1

        whose = [self.count.to_bytes(_INDEX, "big"), self._ids.digest()]
        key = self._kept.open([*bound, *whose], take)
        return key, array("Q", (position for position, one in enumerate(have) if not one))

    def _keep_key(self, key: bytes, public: bytes) -> None:
        """Store a new key on disk if `kept` was given; subclasses call this."""
        if self._kept is not None:
            self._kept.begin(key, public)

    @property
    def _kept_public(self) -> bytes:
        """The public key of an earlier object that has sent its tags, or b""."""
        return self._kept.public if self._kept is not None and self._kept.tags_out else b""

    def _to_send(self) -> Iterator[bytes]:
        """Return what `tags` returns, after all own tags are computed."""
        return packed(self._own_tags)

    def _note_signed(self, digest: bytes) -> None:
        if self._kept is not None:
            self._kept.note_signed(digest)
        else:
            self._recent.append(digest)

    def _go_on_from(self, done: int) -> None:
        again = self._kept is not None and self._kept.reuse  # then runs are counted together
        most = self._announced if again else self._signed_in_all
        if not 0 <= done <= min(most or 0, self._announced or 0):
            raise CountError(f"the peer says it has {done} of {most} signed values")
        if not again and self._signed_in_all - done > RESIGN_VALUES:
            raise BudgetError(
                f"the peer sent {self._signed_in_all - done} values to sign again; {RESIGN_VALUES}"
                " are allowed in a run; begin a new run"
            )
        self._signed = done
        self._lost = set(self._recent)

    def _deliver(self, positions: Sequence[int], pairs: bytes) -> None:
        records = numbered(cut(pairs, _PAIR), positions)
        self._add_own(records)
        if self._kept is not None:
            self._kept.put(records)

    def _add_own(self, records: list[bytes]) -> None:
        self._own_tags.add(record[:TAG_BYTES] for record in records)
        self._own_matches.add(record[TAG_BYTES:] for record in records)

    def _require_open(self) -> None:
        if self._closed:
            raise StateError("the signer was closed")


def _indexes(records: list[bytes]) -> dict[bytes, int]:
    return {each[:TAG_BYTES]: int.from_bytes(each[TAG_BYTES:], "big") for each in records}


def packed(values: Records) -> Iterator[bytes]:
    """Yield tags or proofs, sorted, in chunks of at most 1 MiB; there is no empty chunk."""
    step = MAX_CHUNK // TAG_BYTES
    for records in values.in_buckets():
        ordered = sorted(records)
        for at in range(0, len(ordered), step):
            yield b"".join(ordered[at : at + step])


def unpacked(chunk: bytes) -> list[bytes]:
    """Return the 16-byte values of a chunk, or raise `ValueRefusedError` if one is incomplete."""
    if len(chunk) % TAG_BYTES:
        raise ValueRefusedError(
            f"a chunk has {len(chunk)} bytes; each tag or proof has {TAG_BYTES}"
        )
    return cut(chunk, TAG_BYTES)
