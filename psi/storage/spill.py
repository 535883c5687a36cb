"""Holds records of one width in memory while they are few, and else in bucket files.

Sorting, joining and searching for repeats then need only one bucket at a time in memory. The bucket
of a record follows from its first bytes: either by Python's keyed hash, which a peer cannot
predict, or in the order of the records if the output must be sorted. The files have no name, so
nobody can open them. They are removed when the run is closed or garbage-collected, and when the
program ends, even if it is killed. This module knows no protocol.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO

from psi.errors import naming
from psi.storage.files import nameless_file

BUCKET_IDS = 1_000_000
"""Up to this many records are held in memory; more are on disk in buckets of about this size."""
_KEY = 16  # bytes of a record that determine its bucket
_MOST_BUCKETS = 100  # each is an open file, of which a process may have 1,024

Place = Callable[[bytes, int], int]


def by_hash(record: bytes, buckets: int) -> int:
    """Return the bucket of a record; records with the same first 16 bytes share a bucket."""
    return hash(record[:_KEY]) % buckets


def in_order(record: bytes, buckets: int) -> int:
    """Return the bucket of a record with uniform first bytes; later buckets hold larger records."""
    return int.from_bytes(record[:4], "big") * buckets >> 32


class Scratch:
    """The temporary files of one run.

    Args:
        bucket_ids: the most records that one `Records` object holds in memory.
        folder: the folder of the files; None means the system's temporary folder.
    """

    def __init__(
        self, bucket_ids: int = BUCKET_IDS, folder: str | os.PathLike[str] | None = None
    ) -> None:
        if bucket_ids < 1:
            raise ValueError("bucket_ids must be at least 1")
        self.bucket_ids = bucket_ids
        self.folder = tempfile.gettempdir() if folder is None else os.fspath(folder)
        self._files: list[IO[bytes]] = []
        self._end = weakref.finalize(self, _close, self._files)

    def buckets(self, total: int) -> int:
        """Return how many buckets `total` records need; 1 means that they are held in memory."""
        return max(1, min(-(-total // self.bucket_ids), _MOST_BUCKETS))

    def open(self) -> IO[bytes]:
        """Return a new empty file to write to and read from."""
        file = nameless_file(self.folder)  # `_close` closes it
        self._files.append(file)
        return file

    def close(self) -> None:
        """Close the files, which frees their space."""
        self._end()


def _close(files: list[IO[bytes]]) -> None:
    for file in files:
        # The disk is full, and the unwritten rest may be dropped.
        with contextlib.suppress(OSError):
            file.close()


class Records:
    """Records that are read bucket by bucket."""

    def __init__(self, width: int, total: int, scratch: Scratch, place: Place = by_hash) -> None:
        self.buckets = scratch.buckets(total)
        self._width, self._place = width, place
        self._held: list[bytes] = []
        self._scratch = scratch
        self._files: list[IO[bytes]] = []  # opened with the first record
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, records: Iterable[bytes]) -> None:
        """Add records, which must have the announced width."""
        if self.buckets == 1:
            self._held.extend(records)
            self._count = len(self._held)
            return
        with naming(self._scratch.folder):
            if not self._files:
                self._files = [self._scratch.open() for _ in range(self.buckets)]
            place, buckets, writes = self._place, self.buckets, [file.write for file in self._files]
            for record in records:
                writes[place(record, buckets)](record)
                self._count += 1

    def read(self, bucket: int) -> list[bytes]:
        """Return the records of a bucket, in the order in which they were added."""
        if not self._files:
            return self._held
        file = self._files[bucket]
        with naming(self._scratch.folder):
            file.seek(0)
            data = file.read()
        return cut(data, self._width)

    def forget(self, bucket: int) -> None:
        """Close the file of a bucket, which frees its space. Nothing may be added after that."""
        if self._files:
            _close([self._files[bucket]])

    def in_buckets(self) -> Iterator[list[bytes]]:
        """Return all records, bucket by bucket."""
        return map(self.read, range(self.buckets))

    def close(self) -> None:
        """Forget them all."""
        self._held = []
        _close(self._files)


class Distinct:
    """A set of 16-byte keys, none of which may be added twice.

    In memory, a repeat is found at once; on disk, it is found when the buckets are read.
    """

    def __init__(self, total: int, scratch: Scratch) -> None:
        self._records = Records(_KEY, total, scratch)
        self._seen: set[bytes] | None = set() if self._records.buckets == 1 else None

    def __len__(self) -> int:
        return len(self._records) if self._seen is None else len(self._seen)

    def add(self, keys: list[bytes]) -> bool:
        """Add all keys or none; return False if one is known to be a repeat."""
        if self._seen is None:
            fine = len(set(keys)) == len(keys)
            if fine:
                self._records.add(keys)
            return fine
        fresh = set(keys)
        if len(fresh) != len(keys) or not fresh.isdisjoint(self._seen):
            return False
        self._seen |= fresh
        return True

    def read(self, bucket: int) -> set[bytes] | None:
        """Return the keys of a bucket, or None if one was added twice."""
        if self._seen is not None:
            return self._seen
        keys = self._records.read(bucket)
        found = set(keys)
        return found if len(found) == len(keys) else None

    def forget(self, bucket: int) -> None:
        """See `Records.forget`."""
        self._records.forget(bucket)

    def repeated(self) -> bool:
        """Read all buckets, and return whether any key was added twice."""
        return any(self.read(bucket) is None for bucket in range(self._records.buckets))

    def close(self) -> None:
        """Forget them all."""
        self._seen = set() if self._seen is not None else None
        self._records.close()


def cut(data: bytes, width: int) -> list[bytes]:
    """Cut the data into pieces of `width` bytes."""
    return [data[at : at + width] for at in range(0, len(data), width)]


def numbered(records: Sequence[bytes], numbers: Iterable[int]) -> list[bytes]:
    """Return each record with its number of 8 bytes, big-endian, at its end."""
    ends = array("Q", numbers)
    if sys.byteorder == "little":
        ends.byteswap()
    return list(map(bytes.__add__, records, cut(ends.tobytes(), ends.itemsize)))
