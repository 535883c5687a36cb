"""Implements the party with the small set in one request to the owner of a stored set.

The methods are called in this order. They take and return the bytes that travel:

    hello()                     returns the first message
    blinded()                   returns the chunks of blinded ids
    finalize(answer)            takes the answer to each chunk, in their order
    proofs()                    returns the chunks of proofs of the hits of the filter
    confirm(replies)            takes the answer to each chunk, in their order
    intersection()              returns the common ids

Without `confirm` the owner does not learn which ids are common, and `candidates` are the common ids
and a few others, at the rate of the filter.
"""

from __future__ import annotations

import secrets
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from psi.ecdh import rfc9497
from psi.ecdh.group import HASH_BYTES, POINT_BYTES
from psi.errors import CountError, ProofError, StateError
from psi.side import Side
from psi.storage.spill import BUCKET_IDS, cut
from psi.unequal.filter import Filter
from psi.unequal.outputs import PART, fresh_scalars, inputs_of, parts_of
from psi.unequal.wire import MAX_VALUES, UNKNOWN, write_hello

CHUNK_IDS = 1024
_SLACK = 8  # false hits beyond ten times the stated rate

Sent = tuple[list[bytes], bytes, bytes]
"""Inputs, their blinds, and the blinded elements."""


class SetAsker(Side):
    """The party with the small set in one request.

    Args:
        ids: the ids of this party: unique strings, from any iterable.
        peer_filter: the filter of the owner.
        domain: the domain, which both parties must give the same.
        workers: the number of concurrent operations; None means one per usable core.
        chunk_ids: the number of ids in a chunk, at most 4096.

    Raises:
        FilterRefusedError: the filter was made for another domain.
        IdsError: the ids are not unique strings, or one is too long.
    """

    def __init__(
        self,
        ids: Iterable[str],
        peer_filter: Filter,
        *,
        domain: bytes,
        workers: int | None = None,
        chunk_ids: int = CHUNK_IDS,
    ) -> None:
        if not 1 <= chunk_ids <= MAX_VALUES:
            raise ValueError(f"chunk_ids must be between 1 and {MAX_VALUES}")
        peer_filter.require(domain)
        super().__init__(ids, workers, None, BUCKET_IDS, None)
        self._filter, self._domain, self._chunk_ids = peer_filter, domain, chunk_ids
        self._sent: deque[Sent] = deque()
        self._done = 0
        self._hits: dict[bytes, tuple[int, bytes]] = {}  # by proof: the position and the reply
        self._asked: deque[list[bytes]] = deque()
        self._confirmed: list[int] = []
        self._answered = 0

    def hello(self) -> bytes:
        """Return the first message."""
        return write_hello(self._filter.name, self.count)

    def blinded(self) -> Iterator[bytes]:
        """Return the blinded ids in chunks. Each id is blinded by a fresh scalar."""
        for start, ids in self._ids.blocks(self._chunk_ids):
            inputs = inputs_of(self._domain, ids, start)
            blinds = fresh_scalars(secrets.token_bytes(HASH_BYTES * len(ids)))
            elements = self._blind(inputs, blinds)
            self._sent.append((inputs, blinds, elements))
            yield elements

    def finalize(self, answer: bytes) -> None:
        """Check the answer to the oldest chunk without one, and look its ids up in the filter.

        Raises:
            CountError: the answer has another length than the chunk asks for.
            SignatureError: the proof of the answer does not hold: the owner used another key.
        """
        if not self._sent:
            raise StateError("finalize was called with nothing under way")
        inputs, blinds, elements = self._sent.popleft()
        if len(answer) != len(elements) + rfc9497.PROOF_BYTES:
            raise CountError(f"the answer to {len(inputs)} values has {len(answer)} bytes")
        evaluated, proof = answer[: len(elements)], answer[len(elements) :]
        rfc9497.verify(self._filter.public, elements, evaluated, proof)
        for output in self._outputs(inputs, blinds, evaluated):
            tag, proof, reply = parts_of(output)
            if tag in self._filter:
                self._hits[proof] = self._done, reply
            self._done += 1

    def candidates(self) -> list[str]:
        """Return the ids that hit the filter. Each other id is among them with the filter's rate.

        Raises:
            StateError: some answers have not arrived yet.
        """
        self._require_all()
        return self._ids.pick(sorted(position for position, _ in self._hits.values()))

    def proofs(self) -> Iterator[bytes]:
        """Return the proofs of the hits in chunks, sorted, so that their order says nothing."""
        self._require_all()
        ordered = sorted(self._hits)
        for start in range(0, len(ordered), MAX_VALUES):
            chunk = ordered[start : start + MAX_VALUES]
            self._asked.append(chunk)
            yield b"".join(chunk)

    def confirm(self, replies: bytes) -> None:
        """Check the replies to the oldest chunk of proofs without an answer.

        Raises:
            ProofError: a reply is wrong, or far more hits are not confirmed than the filter's rate
                explains.
        """
        if not self._asked:
            raise StateError("confirm was called with nothing under way")
        asked = self._asked.popleft()
        if len(replies) != PART * len(asked):
            raise ProofError(f"the answer to {len(asked)} proofs has {len(replies)} bytes")
        for proof, came in zip(asked, cut(replies, PART), strict=True):
            position, reply = self._hits[proof]
            if came == reply:
                self._confirmed.append(position)
            elif came != UNKNOWN:
                raise ProofError("a reply does not prove that the owner has the id")
        self._answered += len(asked)
        missing = self._answered - len(self._confirmed)
        if missing > 10 * self._filter.rate * self.count + _SLACK:
            raise ProofError(f"the owner does not confirm {missing} hits of its own filter")

    def positions(self) -> array[int]:
        """Return the positions, among the own ids, of the common ones, in ascending order.

        Raises:
            StateError: some replies have not arrived yet.
        """
        self._require_all()
        if self._answered != len(self._hits):
            raise StateError("the intersection was asked for before all hits were confirmed")
        return array("Q", sorted(self._confirmed))

    def intersection(self) -> list[str]:
        """Return the common ids in the order of the own ids.

        Raises:
            StateError: some replies have not arrived yet.
        """
        return self._ids.pick(self.positions())

    def _require_all(self) -> None:
        if self._done != self.count:
            raise StateError("not all answers have arrived")

    def _blind(self, inputs: list[bytes], blinds: bytes) -> bytes:
        def work(part: Sequence[tuple[bytes, bytes]]) -> bytes:
            some, scalars = zip(*part, strict=True)
            return rfc9497.blind(some, b"".join(scalars))

        rows = list(zip(inputs, cut(blinds, POINT_BYTES), strict=True))
        return b"".join(self._workers.spread(work, rows))

    def _outputs(self, inputs: list[bytes], blinds: bytes, evaluated: bytes) -> list[bytes]:
        def work(part: Sequence[tuple[bytes, bytes, bytes]]) -> list[bytes]:
            some, scalars, elements = zip(*part, strict=True)
            return rfc9497.finalize(some, b"".join(scalars), b"".join(elements))

        pieces = cut(blinds, POINT_BYTES), cut(evaluated, POINT_BYTES)
        rows = list(zip(inputs, *pieces, strict=True))
        return [output for part in self._workers.spread(work, rows) for output in part]
