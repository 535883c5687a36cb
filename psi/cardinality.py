"""How many ids two parties share, and not which: two objects that give and take bytes. No socket.

Both raise points of ristretto255 to a fresh secret exponent (Huberman, Franklin and Hogg 1999; as a
protocol for the size alone: De Cristofaro, Gasti and Tsudik 2012). H(id) hashes an id to a point.

    asker     -> a * H(x) of its ids x, sorted
    answerer  -> b * (a * H(x)), sorted; and b * H(y) of its own ids y, sorted
    asker        makes a * (b * H(y)), counts how many of these are among b * (a * H(x))
    asker     -> the count

Every list is sorted by its bytes, and a list that is not is refused: it says no more than a set,
so nothing of the order of ids is in it, and nobody can hide a mark in it. That b * a * H(x) cannot
be told to belong to a * H(x) is the decisional Diffie-Hellman assumption. It holds against who
follows the protocol; docs/explanation/overlap.md says what a party can do that does not.
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
"""Of fewer ids, a count would say something of single people."""

_VERSION = b"psi-count-1"
_CHUNK = (1 << 20) // POINT_BYTES
_SLICE = 4096


class _Values:
    """Points of the peer, which come sorted and none of them twice."""

    def __init__(self, count: int) -> None:
        self.points: list[bytes] = []
        self._count = count

    def add(self, chunk: bytes) -> list[bytes]:
        """Take a chunk; gives its points.

        Raises:
            ValueRefusedError: not whole points, or not in ascending order.
            CountError: more than were announced.
        """
        if not chunk or len(chunk) % POINT_BYTES:
            raise ValueRefusedError("a chunk that holds no whole number of values")
        new = _cut(chunk)
        if len(self.points) + len(new) > self._count:
            raise CountError(f"more than the {self._count} values that were announced")
        before = self.points[-1:] + new
        if any(first >= second for first, second in pairwise(before)):
            raise ValueRefusedError("values that are not in ascending order, or repeated")
        self.points += new
        return new

    @property
    def complete(self) -> bool:
        return len(self.points) == self._count


class _Counting(Side):
    """What both have: own ids, a secret exponent that is made for this count, and workers."""

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
        """Forget the exponent."""
        self._key = b""
        super().close()

    def _own(self) -> Iterator[bytes]:
        """Own ids as points times the exponent, some at a time, in the order of the ids."""
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
            raise ValueRefusedError("a value is no element of the group, or the identity") from None


class CountAsker(_Counting):
    """The party that asks, and counts.

    Args:
        ids: own ids: unique strings, at least `LEAST_IDS`.
        peer_count: how many ids the other party says that it has.
        domain: binds the values to one task; the same at both.
        workers: threads; None: one for each usable core.

    Raises:
        IdsError: the ids cannot be used.
        CountError: the other party's number of ids is too small.
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
        """Own values, sorted, in chunks of at most 1 MiB."""
        return _chunks(sorted(_cut(b"".join(self._own()))))

    def add_raised(self, chunk: bytes) -> None:
        """Take own values that the peer has raised.

        Raises:
            PeerError: they cannot be that.
        """
        for each in self._answers.add(chunk):
            if not find_group().is_point(each):
                raise ValueRefusedError("a value is no element of the group, or the identity")

    def add_own(self, chunk: bytes) -> None:
        """Take values of the peer's ids.

        Raises:
            PeerError: they cannot be that.
        """
        self._both += self._raised(self._theirs.add(chunk))

    def size(self) -> int:
        """How many ids both have.

        Raises:
            StateError: not all values have come.
        """
        if not (self._answers.complete and self._theirs.complete):
            raise StateError("size was called before all values had come")
        return len(set(self._answers.points).intersection(self._both))


class CountAnswerer(_Counting):
    """The party that answers.

    Args:
        ids: own ids: unique strings, at least `LEAST_IDS`.
        domain: binds the values to one task; the same at both.
        workers: threads; None: one for each usable core.

    Raises:
        IdsError: the ids cannot be used.
    """

    def __init__(
        self, ids: Iterable[str], *, domain: bytes, workers: int | None = None, key: bytes = b""
    ) -> None:
        super().__init__(ids, domain=domain, workers=workers, key=key)
        self._asked: _Values | None = None
        self._raised_values: list[bytes] = []
        self._own_values: list[bytes] = []

    def begin(self, count: int) -> None:
        """The asker says how many ids it has.

        Raises:
            CountError: too few for a count.
        """
        if count < LEAST_IDS:
            raise CountError(f"the peer has {count} ids, and a count needs {LEAST_IDS}")
        self._asked = _Values(count)

    def add_blinded(self, chunk: bytes) -> None:
        """Take a chunk of the asker's values.

        Raises:
            PeerError: they cannot be that.
        """
        if self._asked is None:
            raise StateError("add_blinded was called before begin")
        self._raised_values += self._raised(self._asked.add(chunk))

    def raised(self) -> Iterator[bytes]:
        """The asker's values, raised and sorted; only once all of them have come.

        Raises:
            StateError: some have not.
        """
        if self._asked is None or not self._asked.complete:
            raise StateError("raised was called before all values had come")
        return _chunks(sorted(self._raised_values))

    def compute(self) -> Iterator[int]:
        """Compute the values of own ids, some at a time; gives after each how many are done."""
        self._own_values = []
        for some in self._own():
            self._own_values += _cut(some)
            yield len(self._own_values)

    def own(self) -> Iterator[bytes]:
        """Values of own ids, sorted; computed here where `compute` has not."""
        if len(self._own_values) != self.count:
            for _ in self.compute():
                pass
        return _chunks(sorted(self._own_values))

    def told(self, size: int) -> int:
        """Check the count that the asker tells.

        Raises:
            CountError: there cannot be so many.
        """
        asked = len(self._raised_values)
        if not 0 <= size <= min(asked, self.count):
            raise CountError(f"{size} common ids of {asked} and {self.count}")
        return size


def count_common(first: Iterable[str], second: Iterable[str], *, domain: bytes = b"") -> int:
    """How many ids two sets share, both parties in this process: to try out, and for tests.

    Raises:
        IdsError: ids cannot be used, or are too few.
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
