"""Implements the owner of a stored set in one request of one peer.

The methods are called in this order. They take and return the bytes that travel:

    begin(hello)                checks which set is meant, and how many values are asked for;
                                `announce` does so where both know which set is meant
    evaluate(blinded) -> answer evaluates one chunk after another; each is counted on disk before
    confirm(proofs) -> replies  confirms hits, one chunk after another
    matched()                   returns the positions of the confirmed own ids
    close()                     forgets the key

Nothing is evaluated unless `StoredSet.allow` has named the peer. The caller has authenticated it.
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Sequence
from typing import Self

from psi.ecdh import rfc9497
from psi.ecdh.group import HASH_BYTES, POINT_BYTES
from psi.errors import (
    CountError,
    LimitError,
    ProofError,
    StaleSetError,
    StateError,
    StoreError,
    ValueRefusedError,
)
from psi.storage.id_list import OwnIds
from psi.storage.spill import cut
from psi.unequal.outputs import PART, fresh_scalars
from psi.unequal.store import StoredSet
from psi.unequal.wire import MAX_VALUES, UNKNOWN, read_hello
from psi.workers import Workers


class SetAnswerer:
    """The owner in one request.

    Args:
        stored: the stored set.
        peer: the name of the peer. Its values are counted under this name over all requests.
        workers: the number of concurrent operations; None means one per usable core.
        ids: the ids of the owner, if what follows needs to know that positions mean them.

    Attributes:
        name: the name of the set, which is asked as it is now even if it is replaced meanwhile.

    Raises:
        NotAllowedError: the peer may not ask.
        ChangedIdsError: `ids` are not those of the set, in the order of its creation.
        StoreError: the files of the set are missing or damaged.
    """

    def __init__(
        self,
        stored: StoredSet,
        *,
        peer: str,
        workers: int | None = None,
        ids: OwnIds | None = None,
    ) -> None:
        self._limit = stored.allowed(peer)
        self._stored, self._budget = stored, stored.budget(peer)
        self.name, self._key, self._table = stored.name, stored.key(), stored.table()
        if ids is not None:
            self._require(ids)
        self._workers = Workers(workers)
        self._announced: int | None = None
        self._seen: set[bytes] = set()
        self._proofs: set[bytes] = set()
        self._matched: list[int] = []

    def begin(self, hello: bytes) -> int:
        """Check the first message of the peer, and return the number of values that it announces.

        Nothing is counted yet.

        Raises:
            StaleSetError: the peer has the filter of another set.
            LimitError: the peer asks for more values than are left to it.
            CountError: the message is malformed.
        """
        name, count = read_hello(hello)
        if name != self.name:
            raise StaleSetError(self._about(name))
        self.announce(count)
        return count

    def announce(self, count: int) -> None:
        """Check the number of values that the peer announces for this set.

        Nothing is counted yet.

        Raises:
            LimitError: the peer asks for more values than are left to it.
        """
        self._require_open()
        if self._announced is not None:
            raise StateError("begin was called before")
        if count > self._limit:
            raise LimitError(f"the peer announced {count} ids; allowed: {self._limit}")
        self._budget.require(count, self._limit)
        self._announced = count

    def evaluate(self, blinded: bytes) -> bytes:
        """Evaluate a chunk of blinded elements, and return the answer with its proof.

        Raises:
            ValueRefusedError: an element is malformed, or is repeated.
            CountError: more values came than were announced.
            LimitError: the budget of the peer is used up.
        """
        self._require_open()
        if self._announced is None or self._proofs:
            raise StateError("evaluate was called before begin or after confirm")
        if not blinded or len(blinded) % POINT_BYTES or len(blinded) > MAX_VALUES * POINT_BYTES:
            raise ValueRefusedError("a chunk does not hold a whole number of values, or too many")
        fresh = set(elements := cut(blinded, POINT_BYTES))
        if len(fresh) != len(elements) or not fresh.isdisjoint(self._seen):
            raise ValueRefusedError("a value was sent twice")
        if len(self._seen) + len(fresh) > self._announced:
            raise CountError(f"more values came than the {self._announced} that were announced")
        self._budget.spend(len(elements), self._limit)
        self._seen |= fresh
        evaluated = self._evaluate(elements)
        nonce = fresh_scalars(secrets.token_bytes(HASH_BYTES))
        return evaluated + rfc9497.prove(self._key, blinded, evaluated, nonce)

    def confirm(self, proofs: bytes) -> bytes:
        """Return the reply to each proof; zeros say that no own id has it.

        Raises:
            ProofError: a proof is malformed, repeated or surplus.
        """
        self._require_open()
        if self._announced is None or len(self._seen) != self._announced:
            raise StateError("confirm was called before all announced values were evaluated")
        if not proofs or len(proofs) % PART or len(proofs) > MAX_VALUES * PART:
            raise ProofError("a chunk does not hold a whole number of proofs, or too many")
        fresh = set(came := cut(proofs, PART))
        if len(fresh) != len(came) or not fresh.isdisjoint(self._proofs):
            raise ProofError("a match is claimed twice")
        if len(self._proofs) + len(fresh) > self._announced:
            raise ProofError(f"more matches are claimed than the {self._announced} ids asked")
        self._proofs |= fresh
        return b"".join(map(self._reply, came))

    def matched(self) -> array[int]:
        """Return the positions, among the own ids, of the confirmed ones, in ascending order."""
        return array("Q", sorted(self._matched))

    def close(self) -> None:
        """Forget the key."""
        if self._key:
            self._key = b""
            self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require(self, ids: OwnIds) -> None:
        """Check the ids. A name never returns, so the set is the same before and after."""
        try:
            self._stored.require(ids)
            if self._stored.name != self.name:
                raise StoreError(f"the set {self.name} was just replaced; ask again")
        except BaseException:
            self.close()
            raise

    def _evaluate(self, elements: list[bytes]) -> bytes:
        def work(part: Sequence[bytes]) -> bytes:
            return rfc9497.evaluate(self._key, b"".join(part))

        return b"".join(self._workers.spread(work, elements))

    def _reply(self, proof: bytes) -> bytes:
        found = self._table.find(proof)
        if found is None:
            return UNKNOWN
        reply, position = found
        self._matched.append(position)
        return reply

    def _about(self, name: str) -> str:
        if name in self._stored.replaced:
            return f"the set {name} was replaced by {self.name}; ship its filter to the peer"
        return f"there is no set {name} here, but {self.name}; ship its filter to the peer"

    def _require_open(self) -> None:
        if not self._key:
            raise StateError("this object is closed")
