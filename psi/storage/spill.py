"""Records of one width: in memory while they are few, else in bucket files. Knows no protocol.

Sorting, joining and looking for repeats need only one bucket at a time in memory. A record's
bucket follows from its first bytes: by Python's keyed hash, which a peer cannot aim at, or in
order of the records where what comes out has to be sorted. The files have no name: nobody can
open them, and they are gone when the run is closed or forgotten, or the program ends, even killed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from psi.errors import naming
from psi.storage.files import nameless_file

BUCKET_IDS = 1_000_000
"""Up to so many records are held in memory; beyond, buckets of about this size are on disk."""
_KEY = 16  # bytes of a record that place it
_MOST_BUCKETS = 100  # each is an open file, and a process may have 1,024 of those

Place = Callable[[bytes, int], int]


def by_hash(record: bytes, buckets: int) -> int:
    """The bucket of a record: the same for records that start with the same 16 bytes."""
    return hash(record[:_KEY]) % buckets


def in_order(record: bytes, buckets: int) -> int:
    """The bucket of a record whose first bytes are uniform: later buckets hold larger records."""
    return int.from_bytes(record[:4], "big") * buckets >> 32


class Scratch:
    """The files of one run.

    Args:
        bucket_ids: the most records to hold in memory in one place.
        folder: where they take room; None for the system's place for temporary files.
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
        """How many buckets `total` records need; 1 means: in memory."""
        return max(1, min(-(-total // self.bucket_ids), _MOST_BUCKETS))

    def open(self) -> IO[bytes]:
        """A new empty file to write to and read back."""
        file = nameless_file(self.folder)  # closed by `_close`, also when this object is forgotten
        self._files.append(file)
        return file

    def close(self) -> None:
        """Give the room back."""
        self._end()


def _close(files: list[IO[bytes]]) -> None:
    for file in files:
        with contextlib.suppress(OSError):  # the disk is full: what it did not take may be dropped
            file.close()


class Records:
    """Records to be read bucket by bucket."""

    def __init__(self, width: int, total: int, scratch: Scratch, place: Place = by_hash) -> None:
        self.buckets = scratch.buckets(total)
        self._width, self._place = width, place
        self._held: list[bytes] = []
        self._scratch = scratch
        self._files: list[IO[bytes]] = []  # opened once there is something to put into them
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, records: Iterable[bytes]) -> None:
        """Take records in; they must have the announced width."""
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
        """The records of a bucket, in the order in which they came."""
        if not self._files:
            return self._held
        file = self._files[bucket]
        with naming(self._scratch.folder):
            file.seek(0)
            data = file.read()
        return cut(data, self._width)

    def forget(self, bucket: int) -> None:
        """Give the room of a bucket back, and its open file; nothing may be added after that."""
        if self._files:
            _close([self._files[bucket]])

    def in_buckets(self) -> Iterator[list[bytes]]:
        """All records, bucket by bucket."""
        return map(self.read, range(self.buckets))

    def close(self) -> None:
        """Forget them all."""
        self._held = []
        _close(self._files)


class Distinct:
    """Keys of 16 bytes, none of which may come twice.

    In memory a repeat is found at once, on disk when the buckets are read.
    """

    def __init__(self, total: int, scratch: Scratch) -> None:
        self._records = Records(_KEY, total, scratch)
        self._seen: set[bytes] | None = set() if self._records.buckets == 1 else None

    def __len__(self) -> int:
        return len(self._records) if self._seen is None else len(self._seen)

    def add(self, keys: list[bytes]) -> bool:
        """Take keys in, all or none; False if it is known that one is a repeat."""
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
        """The keys of a bucket, or None if one came twice."""
        if self._seen is not None:
            return self._seen
        keys = self._records.read(bucket)
        found = set(keys)
        return found if len(found) == len(keys) else None

    def forget(self, bucket: int) -> None:
        """See `Records.forget`."""
        self._records.forget(bucket)

    def repeated(self) -> bool:
        """Whether any key came twice: reads all buckets."""
        return any(self.read(bucket) is None for bucket in range(self._records.buckets))

    def close(self) -> None:
        """Forget them all."""
        self._seen = set() if self._seen is not None else None
        self._records.close()


def cut(data: bytes, width: int) -> list[bytes]:
    """The pieces of `width` bytes."""
    return [data[at : at + width] for at in range(0, len(data), width)]
