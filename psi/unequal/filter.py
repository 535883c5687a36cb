"""Writes and reads the compact filter that the owner of a large set ships once.

A filter holds the beginning of the tag of each id. Tags are grouped in buckets by their first bits,
about 256 in each, and of the rest of a tag only a few bytes are stored, in ascending order. An id
that is not in the set is a hit with a probability of at most 256 / 256^suffix_bytes; with 4 bytes
this is 6e-8. A lookup is a binary search in one bucket of the mapped file.

    header      "PSF1", bytes of a suffix (1), bits of a bucket (1), number of ids (8), public key
                (32), check of the domain (16); numbers are big-endian
    directory   the number of tags before each bucket, and after the last one, 8 bytes each
    suffixes    of all tags
    digest      SHA-256 of everything before

The bytes come from a peer, so all of them are checked before the filter is used: a filter with
shorter suffixes would hit more ids than its owner may learn of, and one whose tags are all in one
bucket would take many times its size in memory.
"""

from __future__ import annotations

import math
import mmap
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path

from psi.ecdh.group import POINT_BYTES, find_group
from psi.errors import FilterRefusedError
from psi.storage.files import Draft, open_to_read, private_folder
from psi.unequal.outputs import PART, check_of, name_of

MAX_CHUNK = 1 << 20
"""The most bytes of one chunk of a filter."""

_MAGIC = b"PSF1"
_LOAD_BITS = 8  # of the average number of tags in a bucket
_ENTRY, _DIGEST = 8, 32
_MOST_IN_BUCKET = 1024  # four times the average; by chance no bucket comes near it
_LEAST_SUFFIX, _MOST_SUFFIX, _MOST_BITS = 2, 5, 24
_HEADER = len(_MAGIC) + 2 + _ENTRY + POINT_BYTES + PART


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a filter."""

    count: int
    """The number of ids."""
    bits: int
    """The bits of a tag that determine its bucket."""
    suffix: int
    """The bytes of a tag that are stored."""

    @classmethod
    def of(cls, count: int, false_positive_rate: float) -> Shape:
        """Return the shape of the smallest filter with at most this rate."""
        if not 0 < false_positive_rate < 1:
            raise ValueError("false_positive_rate must be between 0 and 1")
        bits = max(0, math.ceil(math.log2(max(count, 1))) - _LOAD_BITS)
        for suffix in range(_LEAST_SUFFIX, _MOST_SUFFIX + 1):
            shape = cls(count, bits, suffix)
            if shape.rate <= false_positive_rate:
                return shape
        least = 2.0 ** (_LOAD_BITS - 8 * _MOST_SUFFIX)
        raise ValueError(f"false_positive_rate must be at least {least:.1e}")

    @property
    def rate(self) -> float:
        """The probability with which an id outside of the set is a hit."""
        return self.count / 2.0 ** (self.bits + 8 * self.suffix)

    @property
    def body(self) -> int:
        """The byte at which the suffixes begin."""
        return _HEADER + _ENTRY * ((1 << self.bits) + 1)

    @property
    def size(self) -> int:
        """The bytes of the filter."""
        return self.body + self.count * self.suffix + _DIGEST

    def place(self, tag: bytes) -> tuple[int, bytes]:
        """Return the bucket of a tag and what is stored of it."""
        number = int.from_bytes(tag[:8], "big")
        rest = (number << self.bits) & (2**64 - 1)
        return number >> (64 - self.bits), (rest >> (64 - 8 * self.suffix)).to_bytes(
            self.suffix, "big"
        )


def write_filter(
    path: Path, shape: Shape, public: bytes, check: bytes, tags: Iterable[bytes]
) -> None:
    """Write a filter; `tags` are in ascending order."""
    counts, state = [0] * (1 << shape.bits), sha256()
    head = _MAGIC + bytes([shape.suffix, shape.bits]) + shape.count.to_bytes(_ENTRY, "big")
    head += public + check
    with Draft(path) as draft:
        draft.write(bytes(shape.body))  # the directory is known after the last tag
        stream = iter(tags)
        while block := list(islice(stream, 1 << 16)):
            stored = []
            for tag in block:
                bucket, suffix = shape.place(tag)
                counts[bucket] += 1
                stored.append(suffix)
            draft.write(b"".join(stored))
        before, directory = 0, [bytes(_ENTRY)]
        for count in counts:
            before += count
            directory.append(before.to_bytes(_ENTRY, "big"))
        draft.overwrite(head + b"".join(directory))
        for chunk in draft.read():
            state.update(chunk)
        draft.write(state.digest())
        draft.commit()


class Filter:
    """A filter in a file. It is mapped, so that a lookup reads a few pages.

    Args:
        path: the file, which `FilterReceiver` or a `StoredSet` wrote and has checked.

    Attributes:
        count: the number of ids of its owner.
        rate: the probability with which an id that the owner does not have is a hit.
        public: the owner's public key.
        check: 16 bytes that depend on the key and the domain.
        name: the name of the set.

    Raises:
        FilterRefusedError: the file is no filter of this version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with open_to_read(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEADER)
            self._shape, self.public, self.check = _read_header(head)
            if size != self._shape.size:
                raise FilterRefusedError("the filter has not the size that its header says")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.count, self.rate, self.name = self._shape.count, self._shape.rate, name_of(self.public)

    def __contains__(self, tag: object) -> bool:
        if not isinstance(tag, bytes):
            return False
        bucket, suffix = self._shape.place(tag)
        start, end = self._before(bucket), self._before(bucket + 1)
        at = bisect_left(range(start, end), suffix, key=self._suffix) + start
        return at < end and self._suffix(at) == suffix

    def require(self, domain: bytes) -> None:
        """Raise `FilterRefusedError` if the filter was made for another domain."""
        if self.check != check_of(self.public, domain):
            raise FilterRefusedError("the filter was made for another domain")

    def close(self) -> None:
        """Unmap the file, which stays."""
        self._map.close()

    def _before(self, bucket: int) -> int:
        at = _HEADER + bucket * _ENTRY
        return int.from_bytes(self._map[at : at + _ENTRY], "big")

    def _suffix(self, index: int) -> bytes:
        at = self._shape.body + index * self._shape.suffix
        return self._map[at : at + self._shape.suffix]

    def check_all(self) -> None:
        """Check directory, order and digest, which takes about a second per ten million ids.

        Raises:
            FilterRefusedError: something is wrong.
        """
        digest = sha256(memoryview(self._map)[:-_DIGEST]).digest()
        if digest != self._map[-_DIGEST:]:
            raise FilterRefusedError("the filter does not have its digest; ship it again")
        limits = [self._before(bucket) for bucket in range((1 << self._shape.bits) + 1)]
        if limits[0] != 0 or limits[-1] != self.count or any(a > b for a, b in pairwise(limits)):
            raise FilterRefusedError("the directory of the filter is not in order")
        if any(end - start > _MOST_IN_BUCKET for start, end in pairwise(limits)):
            raise FilterRefusedError("a bucket of the filter has far more tags than its share")
        width = self._shape.suffix
        for start, end in pairwise(limits):
            first = self._shape.body + start * width
            data = self._map[first : first + (end - start) * width]
            stored = [data[at : at + width] for at in range(0, len(data), width)]
            if stored != sorted(stored):
                raise FilterRefusedError("a bucket of the filter is not in order")


class FilterReceiver:
    """Takes the bytes of a filter, checks them, and puts them in place whole or not at all.

    Args:
        path: the file for the filter.
        domain: the domain, which both parties must give the same.
        max_peer_ids: the most ids that the owner's set may have.
        max_false_positive_rate: the highest rate that is accepted. The owner can test guesses
            against each false hit that is sent for confirmation.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        domain: bytes,
        max_peer_ids: int = 100_000_000,
        max_false_positive_rate: float = 1e-6,
    ) -> None:
        self._path, self._domain = Path(path), domain
        self._most, self._rate = max_peer_ids, max_false_positive_rate
        private_folder(self._path.parent)
        self._draft = Draft(self._path)
        self._head, self._taken = b"", 0
        self._size: int | None = None

    def add(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            FilterRefusedError: the header is refused, or more bytes came than it says.
        """
        if not chunk or len(chunk) > MAX_CHUNK:
            raise FilterRefusedError("a chunk of the filter is empty, or longer than 1 MiB")
        self._taken += len(chunk)
        self._head += chunk[: _HEADER - len(self._head)]
        if self._size is None and len(self._head) == _HEADER:
            self._size = self._announced().size
        if self._size is not None and self._taken > self._size:
            raise FilterRefusedError("the filter is longer than its header says")
        self._draft.write(chunk)

    def finish(self) -> Filter:
        """Check the whole filter, put it in place, and return it.

        Raises:
            FilterRefusedError: bytes are missing, or the filter is refused.
        """
        if self._taken != self._size:
            raise FilterRefusedError("the filter ended before all its bytes had come")
        self._draft.flush()
        arrived = Filter(self._draft.path)
        try:
            arrived.require(self._domain)
            arrived.check_all()
        finally:
            arrived.close()
        self._draft.commit()
        return Filter(self._path)

    def close(self) -> None:
        """Remove what has arrived, unless `finish` has put it in place."""
        self._draft.close()

    def __enter__(self) -> FilterReceiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _announced(self) -> Shape:
        shape, _, _ = _read_header(self._head)
        if shape.count > self._most:
            raise FilterRefusedError(f"the filter has {shape.count} ids; allowed: {self._most}")
        if shape.rate > self._rate:
            raise FilterRefusedError(
                f"the filter hits {shape.rate:.1e} of all other ids; allowed: {self._rate:.1e}"
            )
        return shape


def chunks_of(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a filter in chunks of at most 1 MiB."""
    with open_to_read(path) as file:
        while chunk := file.read(MAX_CHUNK):
            yield chunk


def _read_header(head: bytes) -> tuple[Shape, bytes, bytes]:
    if len(head) != _HEADER or not head.startswith(_MAGIC):
        raise FilterRefusedError("this is no filter of this version")
    suffix, bits = head[len(_MAGIC)], head[len(_MAGIC) + 1]
    at = len(_MAGIC) + 2
    count = int.from_bytes(head[at : at + _ENTRY], "big")
    public, check = head[at + _ENTRY : -PART], head[-PART:]
    if not _LEAST_SUFFIX <= suffix <= _MOST_SUFFIX or bits > _MOST_BITS:
        raise FilterRefusedError("the filter has an impossible shape")
    if bits > 0 and count <= 1 << (bits + _LOAD_BITS - 1):
        raise FilterRefusedError("the filter has more buckets than its ids need")
    if count > 1 << (bits + _LOAD_BITS):
        raise FilterRefusedError("the filter has fewer buckets than its ids need")
    if not find_group().is_point(public):
        raise FilterRefusedError("the key of the filter is no element of the group")
    return Shape(count, bits, suffix), public, check
