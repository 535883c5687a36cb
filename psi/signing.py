"""The party that signs, whatever the protocol: counts, orders and matches. No key, no socket.

The order of calls, each of which takes or gives what travels:

    public_key()                to the requester, with `count`; `precompute()` fills the wait
    begin(count)                the number of ids the requester announced
    sign(blinded) -> signed     chunk by chunk
    resume(done)                only if the requester was restarted: what it still has
    tags()                      only now, so that no guess can be tested after they are seen
    matched(proofs, last=...)   what the requester proved to hold
    close()                     forget the key

With `kept` a restarted signer continues too: `begin(count, done)` then says what the requester has.
A chunk that was signed of late comes again where its answer was lost, to the last byte. Its
signatures are those that the requester has a right to: they say nothing new and count once.

Everything from the peer is checked before it is used, and counted before it is signed. After an
error that blames the peer the object is of no further use: close it.
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
from psi.hashing import TAG_BYTES
from psi.own_tags import OwnTags
from psi.side import Side
from psi.storage.key_store import RECENT_CHUNKS
from psi.storage.spill import BUCKET_IDS, Distinct, Records, cut, in_order

if TYPE_CHECKING:
    from psi.storage.budget import Budget
    from psi.storage.key_store import KeptKey

MAX_CHUNK = 1 << 20  # bytes; the longest chunk either side sends
RESIGN_VALUES = 16_384  # values that may be signed again in a run, for restarted requesters
_INDEX = 8  # bytes of a position in a record
_PAIR = 2 * TAG_BYTES
_SLICE = 64  # own ids per step: 3 to 16 ms, the longest that a chunk of the peer waits
_SLICE_ELSEWHERE = 512  # through an executor, where each step has to travel


class Signer(Side, ABC):
    """What `RSASigner` and `ECDHSigner` share.

    Args:
        ids: this party's ids: unique strings, from any iterable, or `psi.OwnIds`.
        bound: protocol, domain and whatever else the key of the run belongs to.
        budget: counts signed values on disk; None counts this run alone.
        max_peer_ids: the most values ever signed for this peer, over all runs of the budget.
        workers: operations at once; None for one per usable core.
        executor: does the work elsewhere; the key of the run travels to it, with ECDH ids too.
        bucket_ids: more ids than this are kept in files instead of in memory.
        scratch: the folder for those files; None for the system's.
        kept: keeps key and own tags on disk, for a restart or for later runs; needs a budget.
    """

    backend: str
    """What computes with the secret; "kept tags" where nothing is left to compute."""

    def __init__(
        self,
        ids: Iterable[str],
        bound: Sequence[bytes],
        *,
        budget: Budget | None = None,
        max_peer_ids: int = 10_000_000,
        workers: int | None = None,
        executor: Executor | None = None,
        bucket_ids: int = BUCKET_IDS,
        scratch: str | os.PathLike[str] | None = None,
        kept: KeptKey | None = None,
    ) -> None:
        if kept is not None and budget is None:
            raise ValueError("kept needs a budget, which counts over all restarts and runs")
        super().__init__(ids, workers, executor, bucket_ids, scratch)
        self._budget, self._limit, self._kept = budget, max_peer_ids, kept
        self._own_tags = Records(TAG_BYTES, self.count, self._scratch, in_order)
        self._own_matches = Records(TAG_BYTES + _INDEX, self.count, self._scratch)
        self._announced: int | None = None
        self._signed = 0  # of the announced ones
        self._signed_in_all = 0  # in this run, with what was signed again
        self._recent: deque[bytes] = deque(maxlen=RECENT_CHUNKS) if kept is None else kept.recent
        self._lost: set[bytes] = set()  # chunks whose answers the requester may not have heard
        self._proofs: Distinct | None = None
        self._index_of_match: dict[bytes, int] = {}
        self._closed = False
        self._former_key, todo = self._take_up(bound)
        slice_ids = _SLICE_ELSEWHERE if self._workers.elsewhere else _SLICE
        self._own = OwnTags(
            self._ids, todo, self._pairs_of, self._deliver, self._workers.count, slice_ids
        )

    @abstractmethod
    def public_key(self) -> bytes:
        """The key for the requester, with what it needs to check it."""

    @abstractmethod
    def _pairs_of(self, ids: list[str]) -> bytes:
        """Tag and match proof of each id, one after the other."""

    @abstractmethod
    def _check(self, blinded: bytes, *, again: bool) -> int:
        """The number of values in a chunk, or `ValueRefusedError`; nothing is signed yet.

        Args:
            blinded: the chunk.
            again: whether it has been checked and signed before.
        """

    @abstractmethod
    def _sign(self, blinded: bytes) -> bytes:
        """The values signed; what `_check` could not see is `ValueRefusedError` here."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop the key."""

    @property
    def kept(self) -> bool:
        """Whether the key is one of an earlier object, and not made by this one."""
        return self._kept is not None and self._kept.kept

    def precompute(self) -> None:
        """Start on the own tags in the background; returns at once."""
        self._require_open()
        self._own.start()

    def progress(self) -> int:
        """How many own tags are computed, of `count`."""
        return self._own.done()

    def ready(self, seconds: float) -> bool:
        """Wait for at most so long; whether all own tags are computed, so that `tags` can begin."""
        self._require_open()
        return self._own.ready(seconds)

    def begin(self, count: int, done: int = 0) -> None:
        """The requester announced `count` ids; `BudgetError` if they are too many.

        Nothing is spent yet: `sign` records each chunk on disk before it signs it.

        Args:
            count: the number of its ids.
            done: how many of them it has results of, from before this signer was restarted.
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
            # What is asked again as it was costs nothing; what is not, `sign` counts.
            self._budget.require(max(0, count - max(done, self._signed_in_all)), self._limit)
        self._announced = count
        self._go_on_from(done)

    def sign(self, blinded: bytes) -> bytes:
        """The next chunk of blinded values, each signed, in the same order."""
        self._require_open()
        if self._announced is None:
            raise StateError("sign was called before begin")
        if self._kept is not None and self._kept.tags_out:
            raise BudgetError("the tags have left, so nothing more is signed; begin a new run")
        if not blinded:
            raise ValueRefusedError("a chunk without values")
        digest = sha256(blinded).digest()
        again = digest in self._lost
        values = self._check(blinded, again=again)
        total = self._signed + values
        if total > self._announced:
            raise CountError(f"{total} values to sign where {self._announced} were announced")
        if again:
            self._lost.remove(digest)
        else:
            if self._budget is not None:
                self._budget.spend(values, self._limit)
            self._note_signed(digest)
            self._signed_in_all += values
        self._signed = total
        with self._own.step_aside():
            return self._sign(blinded)

    def resume(self, done: int) -> None:
        """The requester was restarted and has the results of `done` values: it asks for the rest.

        Of what was signed and lost on the way, other values than before are signed up to
        `RESIGN_VALUES` in a run: each of those lets the peer test one more guess, and counts.
        """
        self._require_open()
        if self._announced is None or self._proofs is not None:
            raise StateError("resume was called before begin or after tags")
        self._go_on_from(done)

    def tags(self) -> Iterator[bytes]:
        """The own tags in chunks of at most 1 MiB; waits until they are computed.

        Once they have left, nothing is signed again, also not after a restart with `kept`. So let a
        requester that keeps results say first that it has them all.

        They are sent sorted. A tag is a hash, so its order says nothing about the order of ids.
        """
        self._require_open()
        if self._announced is None or self._signed != self._announced:
            raise StateError("tags were asked for before all announced values were signed")
        if self._proofs is not None:
            raise StateError("tags was called before")
        self._own.wait()
        if self._kept is not None:
            self._kept.note_tags_out()
        # Proofs are joined with the own ones bucket by bucket, so both need the same buckets.
        self._proofs = Distinct(self.count, self._scratch)
        if self._own_matches.buckets == 1:
            self._index_of_match = _indexes(self._own_matches.read(0))
        return packed(self._own_tags)

    def matched(self, proofs: bytes, *, last: bool) -> list[str] | None:
        """Check a chunk of match proofs; with the last one, the own ids that matched, in order.

        Past `bucket_ids` own ids, a wrong proof is found with the last chunk.
        """
        self.add_proofs(proofs)
        return self._ids.pick(self.positions()) if last else None

    def add_proofs(self, proofs: bytes) -> None:
        """Check a chunk of match proofs; `positions` gives what all of them say."""
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
        """The positions among the own ids of those whose match was proved, in order."""
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
        """Forget the key and the tags, and remove what is on disk, except for what `kept` keeps."""
        if not self._closed:
            self._closed = True
            self._own.stop()
            self._forget()
            self._index_of_match = {}
            for records in (self._own_tags, self._own_matches):
                records.close()
            if self._kept is not None:
                self._kept.close()
            super().close()

    def _take_up(self, bound: Sequence[bytes]) -> tuple[bytes | None, Sequence[int]]:
        """The key that was kept, and the positions of own ids that have no tag yet."""
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
        """To be called by a subclass with a new key."""
        if self._kept is not None:
            self._kept.begin(key, public)

    @property
    def _kept_public(self) -> bytes:
        """The public key of an earlier object whose tags have left; else empty."""
        return self._kept.public if self._kept is not None and self._kept.tags_out else b""

    def _note_signed(self, digest: bytes) -> None:
        if self._kept is not None:
            self._kept.note_signed(digest)
        else:
            self._recent.append(digest)

    def _go_on_from(self, done: int) -> None:
        again = self._kept is not None and self._kept.reuse  # then runs are not told apart
        most = self._announced if again else self._signed_in_all
        if not 0 <= done <= min(most or 0, self._announced or 0):
            raise CountError(f"the peer says it has {done} of {most} signed values")
        if not again and self._signed_in_all - done > RESIGN_VALUES:
            raise BudgetError(
                f"{self._signed_in_all - done} values to sign again; allowed in a run:"
                f" {RESIGN_VALUES}; begin a new run"
            )
        self._signed = done
        self._lost = set(self._recent)

    def _deliver(self, positions: Sequence[int], pairs: bytes) -> None:
        records = [
            pair + position.to_bytes(_INDEX, "big")
            for pair, position in zip(cut(pairs, _PAIR), positions, strict=True)
        ]
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
