"""The party that asks: blinds its ids, unblinds what one signer signed, finds the matches.

One object per signer and run; no socket, no clock. The order of calls:

    blinded()                   chunks for the signer; several may be on their way at once
    unblind(signed)             its answers, in the same order
    add_tags(tags)              the signer's tags
    intersection()              own ids that the signer holds too
    proofs(ids)                 what convinces the signer of a match, for the ids to be shared

Blinding is uniform in Z_n*, fresh from the system's generator for each id, kept in memory until
its answer is unblinded and nowhere else. Every answer is verified, s^e = H(id), one by one:
batch verification would let a signer slip in factors of small order, which it can choose.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from gmpy2 import mpz

from psi.arithmetic import RandomBytes, all_units, join, powers, random_units, split
from psi.errors import (
    CountError,
    IdsError,
    KeyRefusedError,
    SignatureError,
    StateError,
    ValueRefusedError,
)
from psi.ids import check_ids
from psi.keys import MAX_BITS, MIN_BITS, E, read_key
from psi.parallel import spread, worker_count
from psi.signer import MAX_CHUNK, packed, unpacked


@dataclass(slots=True)
class _Blinded:
    """Ids on their way: what is needed to unblind and verify their answers."""

    values: bytes
    hashes: list[mpz]
    inverses: list[mpz]


class RSARequester:
    """One run with one signer.

    Args:
        ids: this party's ids: unique strings.
        public_key: the signer's blob; `KeyRefusedError` if it or its proof does not hold.
        peer_count: how many ids the signer announced.
        domain: `psi.domain(task, run)`, the same at both parties.
        min_bits: the smallest modulus accepted.
        max_bits: the largest modulus accepted.
        workers: threads; None for one per usable core.
        chunk_ids: ids per chunk, cut to what fits in 1 MiB.
        max_peer_ids: the most ids the signer may announce, since their tags fill memory here.

    The private argument is for tests: a source of random bytes.
    """

    def __init__(
        self,
        ids: Sequence[str],
        public_key: bytes,
        peer_count: int,
        *,
        domain: bytes,
        min_bits: int = MIN_BITS,
        max_bits: int = MAX_BITS,
        workers: int | None = None,
        chunk_ids: int = 2048,
        max_peer_ids: int = 100_000_000,
        _random: RandomBytes = secrets.token_bytes,
    ) -> None:
        self._ids = check_ids(ids)
        self.count = len(self._ids)
        if not 0 <= peer_count <= max_peer_ids:
            raise CountError(f"the peer announced {peer_count} ids; allowed: 0 to {max_peer_ids}")
        if chunk_ids < 1:
            raise ValueError("chunk_ids must be at least 1")
        self._key, self._hash = read_key(public_key, domain, min_bits, max_bits)
        self._chunk_ids = min(chunk_ids, MAX_CHUNK // self._key.width)
        self._workers = worker_count(workers)
        self._random = _random
        self._peer_count = peer_count
        self._started = False
        self._on_their_way: deque[_Blinded] = deque()
        self._pairs: list[tuple[bytes, bytes]] = []  # (tag, match proof), in order of the ids
        self._peer_tags: set[bytes] = set()

    @property
    def value_bytes(self) -> int:
        """Width of each blinded and each signed value."""
        return self._key.width

    def blinded(self) -> Iterator[bytes]:
        """H(id) * r^e mod n for each id, in order, chunk by chunk; made as they are asked for."""
        if self._started:
            raise StateError("blinded was called before; every blinding is used once")
        self._started = True
        return self._blind_all()

    def unblind(self, signed: bytes) -> None:
        """The signer's answer to the oldest chunk that has none: unblind it and verify it."""
        if not self._started:
            raise StateError("unblind was called before blinded")
        width = self._key.width
        if len(signed) % width:
            raise ValueRefusedError(f"a chunk of {len(signed)} bytes; values have {width} each")
        if not self._on_their_way:
            raise CountError("signed values came where none were outstanding")
        sent = self._on_their_way[0]
        if len(signed) != len(sent.values):
            came, asked = len(signed) // width, len(sent.hashes)
            raise CountError(f"{came} signed values came as the answer to {asked}")
        triples = list(zip(split(signed, width), sent.inverses, sent.hashes, strict=True))
        for part in spread(self._unblind_part, triples, self._workers):
            self._pairs.extend(part)
        self._on_their_way.popleft()

    def add_tags(self, tags: bytes, *, last: bool = False) -> None:
        """A chunk of the signer's tags; with `last`, refuse if fewer came than announced."""
        came = unpacked(tags)
        total = len(self._peer_tags) + len(came)
        if total > self._peer_count or (last and total != self._peer_count):
            raise CountError(f"{total} tags came where {self._peer_count} were announced")
        self._peer_tags.update(came)
        if len(self._peer_tags) != total:
            raise ValueRefusedError("a tag came twice")

    def intersection(self) -> list[str]:
        """The own ids that the signer holds too, in their own order."""
        if len(self._pairs) != self.count or len(self._peer_tags) != self._peer_count:
            raise StateError("intersection was asked for before all signatures and tags came")
        pairs = zip(self._ids, self._pairs, strict=True)
        return [text for text, (tag, _) in pairs if tag in self._peer_tags]

    def proofs(self, ids: Collection[str]) -> Iterator[bytes]:
        """Match proofs for `ids` in chunks of at most 1 MiB; nothing at all for no ids.

        `ids` may be any part of the intersection: with several signers, what all of them hold.
        The proofs are sent sorted, which says nothing about the order of ids.
        """
        wanted = set(ids)
        missing = len(wanted.difference(self.intersection()))
        if missing:
            raise IdsError(f"{missing} of {len(wanted)} ids are not in the intersection")
        pairs = zip(self._ids, self._pairs, strict=True)
        return packed([match for text, (_, match) in pairs if text in wanted])

    def _blind_all(self) -> Iterator[bytes]:
        for at in range(0, self.count, self._chunk_ids):
            ids = self._ids[at : at + self._chunk_ids]
            parts = spread(self._blind_part, ids, self._workers)
            chunk = _Blinded(
                b"".join(part.values for part in parts),
                [value for part in parts for value in part.hashes],
                [value for part in parts for value in part.inverses],
            )
            self._on_their_way.append(chunk)
            yield chunk.values

    def _blind_part(self, ids: Sequence[str]) -> _Blinded:
        n = self._key.n
        hashes = [self._hash.of_id(text) for text in ids]
        if not all_units(hashes, n):
            # A factor of n, just above what the key's proof covers, would show through r^e.
            raise KeyRefusedError("the modulus has small factors")
        blinding, unblinding = random_units(len(ids), n, self._random)
        masks = powers(blinding, E, n)
        values = (value * mask % n for value, mask in zip(hashes, masks, strict=True))
        return _Blinded(join(values, self._key.width), hashes, unblinding)

    def _unblind_part(self, triples: Sequence[tuple[mpz, mpz, mpz]]) -> list[tuple[bytes, bytes]]:
        n, width = self._key.n, self._key.width
        if not all(0 < signed < n for signed, _, _ in triples):
            raise ValueRefusedError("a signed value is not in [1, n)")
        signatures = [signed * inverse % n for signed, inverse, _ in triples]
        if powers(signatures, E, n) != [value for _, _, value in triples]:
            raise SignatureError("a signed value does not verify")
        return [self._hash.tag_and_match(s.to_bytes(width, "big")) for s in signatures]
