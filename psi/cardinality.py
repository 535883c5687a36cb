"""Counts how many ids two parties share without showing which ones they are.

Each party has an object that takes and returns bytes and knows no socket. Both multiply points of
ristretto255 by a fresh secret scalar (Huberman, Franklin and Hogg 1999; De Cristofaro, Gasti and
Tsudik 2012 describe the variant that shows the size only). H(id) hashes an id to a point; a and b
are the secret scalars of the asker and the answerer.

    asker     -> a * H(x) of its ids x, sorted
    answerer  -> b * (a * H(x)), sorted; and b * H(y) of its own ids y, sorted
    asker        makes a * (b * H(y)), counts how many of these are among b * (a * H(x))
    asker     -> the count

Every list is sorted by its bytes, and an unsorted list is refused. A sorted list tells no more than
a set: it does not show the order of the ids, and no party can mark a value by its position. Under
the decisional Diffie-Hellman assumption nobody can tell which b * a * H(x) belongs to which a *
H(x). This protects against parties that follow the protocol; docs/explanation/overlap.md says what
a party that deviates can learn.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from itertools import pairwise

from psi.ecdh.group import POINT_BYTES, PointRefusedError, find_group
from psi.ecdh.oprf import hash_to_points, make_key
from psi.errors import CountError, IdsError, StateError, ValueRefusedError
from psi.hashing import prefixed
from psi.side import Side
from psi.storage.spill import BUCKET_IDS

LEAST_IDS = 20
"""The least number of ids per party. With fewer, a count would say something about single
people.
"""

_VERSION = b"psi-count-1"
_CHUNK = (1 << 20) // POINT_BYTES
_SLICE = 4096


class _Values:
    """Collects the points of the peer, which must arrive in ascending order without repeats."""

    def __init__(self, count: int) -> None:
        self.points: list[bytes] = []
        self._count = count

    def add(self, chunk: bytes) -> list[bytes]:
        """Take a chunk and return its points.

        Raises:
            ValueRefusedError: the chunk does not consist of whole points, or they are not in
                ascending order.
            CountError: more points came than were announced.
        """
        if not chunk or len(chunk) % POINT_BYTES:
            raise ValueRefusedError("a chunk does not hold a whole number of values")
        new = _cut(chunk)
        if len(self.points) + len(new) > self._count:
            raise CountError(f"more than the {self._count} announced values came")
        before = self.points[-1:] + new
        if any(first >= second for first, second in pairwise(before)):
            raise ValueRefusedError("the values are not in ascending order, or one is repeated")
        self.points += new
        return new

    @property
    def complete(self) -> bool:
        return len(self.points) == self._count


class _Counting(Side):
    """Base of both parties: it holds the own ids, a secret scalar for this count, and workers."""

    def __init__(
        self, ids: Iterable[str], *, domain: bytes, workers: int | None = None, key: bytes = b""
    ) -> None:
        super().__init__(ids, workers, None, BUCKET_IDS, None)
        self._key = key or make_key()
        self._start = prefixed(_VERSION, b"id", domain)
        self.backend = find_group().backend
        if self.count < LEAST_IDS:
            self.close()
            raise IdsError(
                f"a count needs {LEAST_IDS} ids at each party, and there are {self.count}"
            )

    def close(self) -> None:
        """Forget the secret scalar."""
        self._key = b""
        super().close()

    def _own(self) -> Iterator[bytes]:
        """Yield the points of the own ids times the scalar, several at once, in the order of the
        ids.
        """
        some: list[str] = []
        for each in self._ids:
            some.append(each)
            if len(some) == _SLICE:
                yield self._of_ids(some)
                some = []
        if some:
            yield self._of_ids(some)

    def _of_ids(self, ids: list[str]) -> bytes:
        def work(part: object) -> bytes:
            return self._times(hash_to_points(self._start, part))  # type: ignore[arg-type]

        return b"".join(self._workers.spread(work, ids))

    def _raised(self, points: list[bytes]) -> list[bytes]:
        def work(part: object) -> bytes:
            return self._times(b"".join(part))  # type: ignore[arg-type]

        return _cut(b"".join(self._workers.spread(work, points)))

    def _times(self, points: bytes) -> bytes:
        if not self._key:
            raise StateError("this object is closed")
        try:
            return find_group().multiply(self._key, points)
        except PointRefusedError:
            raise ValueRefusedError(
                "a value is no element of the group, or is the identity"
            ) from None


class CountAsker(_Counting):
    """The party that asks for the count and computes it.

    Args:
        ids: the ids of this party: unique strings, at least `LEAST_IDS` of them.
        peer_count: the number of ids that the other party announced.
        domain: the bytes that bind the values to one task; both parties must give the same.
        workers: the number of threads; None starts one per usable core.

    Raises:
        IdsError: the ids are not unique strings, or there are too few.
        CountError: the other party has too few ids.
    """

    def __init__(
        self,
        ids: Iterable[str],
        peer_count: int,
        *,
        domain: bytes,
        workers: int | None = None,
        key: bytes = b"",
    ) -> None:
        super().__init__(ids, domain=domain, workers=workers, key=key)
        if peer_count < LEAST_IDS:
            self.close()
            raise CountError(f"the peer has {peer_count} ids, and a count needs {LEAST_IDS}")
        self._answers, self._theirs = _Values(self.count), _Values(peer_count)
        self._both: list[bytes] = []

    def blinded(self) -> Iterator[bytes]:
        """Return the values of the own ids, sorted, in chunks of at most 1 MiB."""
        return _chunks(sorted(_cut(b"".join(self._own()))))

    def add_raised(self, chunk: bytes) -> None:
        """Take own values that the peer has multiplied by its scalar.

        Raises:
            PeerError: the values are malformed, unsorted, repeated or too many.
        """
        for each in self._answers.add(chunk):
            if not find_group().is_point(each):
                raise ValueRefusedError("a value is no element of the group, or is the identity")

    def add_own(self, chunk: bytes) -> None:
        """Take values of the peer's ids.

        Raises:
            PeerError: the values are malformed, unsorted, repeated or too many.
        """
        self._both += self._raised(self._theirs.add(chunk))

    def size(self) -> int:
        """Return the number of ids that both parties have.

        Raises:
            StateError: some values have not arrived yet.
        """
        if not (self._answers.complete and self._theirs.complete):
            raise StateError("size was called before all values had come")
        return len(set(self._answers.points).intersection(self._both))


class CountAnswerer(_Counting):
    """The party that answers.

    Args:
        ids: the ids of this party: unique strings, at least `LEAST_IDS` of them.
        domain: the bytes that bind the values to one task; both parties must give the same.
        workers: the number of threads; None starts one per usable core.

    Raises:
        IdsError: the ids are not unique strings, or there are too few.
    """

    def __init__(
        self, ids: Iterable[str], *, domain: bytes, workers: int | None = None, key: bytes = b""
    ) -> None:
        super().__init__(ids, domain=domain, workers=workers, key=key)
        self._asked: _Values | None = None
        self._raised_values: list[bytes] = []
        self._own_values: list[bytes] = []

    def begin(self, count: int) -> None:
        """Note how many ids the asker announced.

        Raises:
            CountError: there are too few ids for a count.
        """
        if count < LEAST_IDS:
            raise CountError(f"the peer has {count} ids, and a count needs {LEAST_IDS}")
        self._asked = _Values(count)

    def add_blinded(self, chunk: bytes) -> None:
        """Take a chunk of the asker's values.

        Raises:
            PeerError: the values are malformed, unsorted, repeated or too many.
        """
        if self._asked is None:
            raise StateError("add_blinded was called before begin")
        self._raised_values += self._raised(self._asked.add(chunk))

    def raised(self) -> Iterator[bytes]:
        """Return the asker's values times the own scalar, sorted, after all of them have arrived.

        Raises:
            StateError: some values have not arrived yet.
        """
        if self._asked is None or not self._asked.complete:
            raise StateError("raised was called before all values had come")
        return _chunks(sorted(self._raised_values))

    def compute(self) -> Iterator[int]:
        """Compute the values of the own ids step by step; yield the number done after each step."""
        self._own_values = []
        for some in self._own():
            self._own_values += _cut(some)
            yield len(self._own_values)

    def own(self) -> Iterator[bytes]:
        """Return the values of the own ids, sorted. They are computed here unless `compute`
        did it.
        """
        if len(self._own_values) != self.count:
            for _ in self.compute():
                pass
        return _chunks(sorted(self._own_values))

    def told(self, size: int) -> int:
        """Check the count that the asker reports, and return it.

        Raises:
            CountError: the count is negative or larger than one of the sets.
        """
        asked = len(self._raised_values)
        if not 0 <= size <= min(asked, self.count):
            raise CountError(f"the peer reports {size} common ids of {asked} and {self.count}")
        return size


def count_common(first: Iterable[str], second: Iterable[str], *, domain: bytes = b"") -> int:
    """Return how many ids two sets share. Both parties run in this process, for trials and tests.

    Raises:
        IdsError: the ids of a set are not unique strings, or there are too few.
    """
    domain = domain or secrets.token_bytes(16)
    with (
        CountAnswerer(second, domain=domain) as answerer,
        CountAsker(first, answerer.count, domain=domain) as asker,
    ):
        answerer.begin(asker.count)
        for chunk in asker.blinded():
            answerer.add_blinded(chunk)
        for chunk in answerer.raised():
            asker.add_raised(chunk)
        for chunk in answerer.own():
            asker.add_own(chunk)
        return answerer.told(asker.size())


def _cut(points: bytes) -> list[bytes]:
    return [points[at : at + POINT_BYTES] for at in range(0, len(points), POINT_BYTES)]


def _chunks(points: list[bytes]) -> Iterator[bytes]:
    for start in range(0, len(points), _CHUNK):
        yield b"".join(points[start : start + _CHUNK])
