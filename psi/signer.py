"""The party that signs: holds the key of one run and answers one requester. No socket, no clock.

RSA blind signatures (Chaum 1983) as a set intersection (De Cristofaro and Tsudik 2010). The
order of calls, each of which takes or gives what travels:

    public_key()                to the requester, with `count`; `precompute()` fills the wait
    begin(count)                the number of ids the requester announced
    sign(blinded) -> signed     chunk by chunk
    tags()                      only now, so that no guess can be tested after they are seen
    matched(proofs, last=...)   what the requester proved to hold
    close()                     forget the key

Everything from the peer is checked before it is used, and counted before it is signed. Two
values are allowed on purpose: 1 and n-1 sign to themselves and say nothing, and a blinded value
may come twice, since it then only takes the place of another one in the announced number.
After an error that blames the peer the object is of no further use: close it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

from gmpy2 import mpz

from psi.arithmetic import all_units, join, split
from psi.backends import open_backend
from psi.errors import BudgetError, CountError, ProofError, StateError, ValueRefusedError
from psi.hashing import TAG_BYTES, RunHash
from psi.ids import check_ids
from psi.keys import PublicKey, encode_key, make_key, sign_each, sign_own
from psi.own_tags import OwnTags, Pairs
from psi.parallel import spread, worker_count

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from psi.budget import Budget

MAX_CHUNK = 1 << 20  # bytes; the longest chunk either side sends


class RSASigner:
    """One run with one requester.

    Args:
        ids: this party's ids: unique strings.
        domain: `psi.domain(task, run)`, the same at both parties.
        bits: size of the key.
        budget: counts signed values on disk; None counts this run alone.
        max_peer_ids: the most values ever signed for this peer, over all runs of the budget.
        workers: threads; None for one per usable core.

    The private arguments are for tests: a ready key, and a backend by name.
    """

    count: int
    """Number of own ids; travels with the key."""
    backend: str
    """What raises to the secret exponent: "openssl" or "gmpy2"."""

    def __init__(
        self,
        ids: Sequence[str],
        *,
        domain: bytes,
        bits: int = 2048,
        budget: Budget | None = None,
        max_peer_ids: int = 10_000_000,
        workers: int | None = None,
        _key: RSAPrivateKey | None = None,
        _backend: str | None = None,
    ) -> None:
        self._ids = check_ids(ids)
        self.count = len(self._ids)
        self._budget, self._limit = budget, max_peer_ids
        self._workers = worker_count(workers)
        key = make_key(bits) if _key is None else _key
        self._key = PublicKey(mpz(key.public_key().public_numbers().n), key.key_size)
        self._hash = RunHash(domain, self._key.n)
        self._secret = open_backend(key, self._workers, _backend)
        self.backend = self._secret.name
        self._blob = encode_key(self._key, self._hash, self._secret)
        self._own = OwnTags(self._ids, self._pairs_of, self._workers)
        self._announced: int | None = None
        self._signed = 0
        self._index_of_match: dict[bytes, int] | None = None
        self._claimed: set[int] = set()
        self._closed = False

    def public_key(self) -> bytes:
        """The key with the proof that blinding under it hides; at most 5,130 bytes."""
        return self._blob

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
        """The next chunk of blinded values, each to the secret exponent, in the same order."""
        self._require_open()
        if self._announced is None:
            raise StateError("sign was called before begin")
        key, width = self._key, self._key.width
        if not blinded or len(blinded) % width:
            raise ValueRefusedError(f"a chunk of {len(blinded)} bytes; values have {width} each")
        total = self._signed + len(blinded) // width
        if total > self._announced:
            raise CountError(f"{total} values to sign where {self._announced} were announced")
        values = split(blinded, width)
        if not all(0 < value < key.n for value in values):
            raise ValueRefusedError("a value to sign is not in [1, n)")
        if not all_units(values, key.n):
            raise ValueRefusedError("a value to sign shares a factor with n")
        if self._budget is not None:
            self._budget.spend(len(values), self._limit)
        self._signed = total
        with self._own.step_aside():
            parts = spread(lambda part: sign_each(self._secret, part, key), values, self._workers)
        return b"".join(join(part, width) for part in parts)

    def tags(self) -> Iterator[bytes]:
        """The own tags in chunks of at most 1 MiB; waits until they are computed.

        They are sent sorted. A tag is a hash, so its order says nothing about the order of ids.
        """
        self._require_open()
        if self._announced is None or self._signed != self._announced:
            raise StateError("tags were asked for before all announced values were signed")
        if self._index_of_match is not None:
            raise StateError("tags was called before")
        pairs = self._own.wait()
        self._index_of_match = {match: index for index, (_, match) in enumerate(pairs)}
        return packed([tag for tag, _ in pairs])

    def matched(self, proofs: bytes, *, last: bool) -> list[str] | None:
        """Check a chunk of match proofs; with the last one, the own ids that matched, in order."""
        self._require_open()
        if self._announced is None or self._index_of_match is None:
            raise StateError("matched was called before tags")
        for proof in unpacked(proofs):
            index = self._index_of_match.get(proof)
            if index is None:
                raise ProofError("a match is claimed for an id that is not here")
            if index in self._claimed:
                raise ProofError("a match is claimed twice")
            if len(self._claimed) == self._announced:
                raise ProofError(f"more matches are claimed than the {self._announced} ids asked")
            self._claimed.add(index)
        if not last:
            return None
        return [self._ids[index] for index in sorted(self._claimed)]

    def close(self) -> None:
        """Forget the key and the tags; a second call changes nothing.

        libcrypto wipes its copies. Short-lived copies that Python made while the key was set up
        are freed but cannot be wiped.
        """
        if not self._closed:
            self._closed = True
            self._own.stop()
            self._secret.close()
            self._index_of_match = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pairs_of(self, ids: Sequence[str]) -> Pairs:
        hashes = [self._hash.of_id(text) for text in ids]
        signatures = sign_own(self._secret, hashes, self._key)
        width = self._key.width
        return [self._hash.tag_and_match(s.to_bytes(width, "big")) for s in signatures]

    def _require_open(self) -> None:
        if self._closed:
            raise StateError("the signer was closed")


def packed(values: list[bytes]) -> Iterator[bytes]:
    """Tags or proofs, sorted, in chunks of at most 1 MiB; nothing for an empty list."""
    ordered = sorted(values)
    step = MAX_CHUNK // TAG_BYTES
    return (b"".join(ordered[at : at + step]) for at in range(0, len(ordered), step))


def unpacked(chunk: bytes) -> list[bytes]:
    """The 16-byte values of a chunk, or `ValueRefusedError` if one is cut short."""
    if len(chunk) % TAG_BYTES:
        raise ValueRefusedError(f"a chunk of {len(chunk)} bytes; tags and proofs have {TAG_BYTES}")
    return [chunk[at : at + TAG_BYTES] for at in range(0, len(chunk), TAG_BYTES)]
