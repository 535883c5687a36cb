"""Checks the ids of one party once, and keeps them in their order.

Ids are compared by exact code points. Nothing is normalised, stripped or case-folded, because two
parties that do this differently would silently lose matches. Error messages contain positions and
never ids.

Up to `bucket_ids` ids are held as a list. More are written to a nameless file as they arrive, with
one number of eight bytes per id in memory; repeats are then found bucket by bucket. This module
knows nothing of a peer.
"""

from __future__ import annotations

import os
import secrets
from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import chain, islice, pairwise

from psi.errors import IdsError, naming
from psi.storage.spill import BUCKET_IDS, Records, Scratch

_SHOWN = 10  # the most positions that an error names
_BLOCK = 8192  # ids that are processed at once when they are streamed
_INDEX = 8  # bytes of a position in a record
_BUCKETS = 64


class OwnIds:
    """The checked ids of one party; several runs may share one object.

    Signers and requesters make an `OwnIds` of the ids that they are given. Several runs over the
    same ids can be given the same object, so that the ids are checked and held once.

    Args:
        source: the ids, from any iterable.
        bucket_ids: more ids than this are kept in a file instead of in memory.
        scratch: the folder for that file; None means the system's temporary folder.

    Attributes:
        bucket_ids: the argument; a signer or requester of these ids does not hold more either.

    Raises:
        IdsError: an id is not a string, is repeated, or cannot be encoded as UTF-8. The message has
            a count and positions, and never an id.
    """

    def __init__(
        self,
        source: Iterable[str],
        *,
        bucket_ids: int = BUCKET_IDS,
        scratch: str | os.PathLike[str] | None = None,
    ) -> None:
        self.bucket_ids = bucket_ids
        self._digest = b""
        self._scratch = Scratch(bucket_ids, scratch)
        if isinstance(source, str | bytes):
            raise IdsError("ids is one string; give a list of strings")
        stream = iter(source)
        first = list(islice(stream, bucket_ids + 1))
        self._held: list[str] | None = None
        if len(first) <= bucket_ids:
            _check_list(first)
            self._held = first
            return
        self._file = self._scratch.open()
        self._ends = array("Q", [0])
        self._spool(chain(first, stream))

    def __len__(self) -> int:
        return len(self._ends) - 1 if self._held is None else len(self._held)

    def __iter__(self) -> Iterator[str]:
        for _, block in self.blocks(_BLOCK):
            yield from block

    def blocks(self, size: int, first: int = 0) -> Iterator[tuple[int, list[str]]]:
        """Yield the ids from position `first` on in blocks of `size`, each with the position of its
        first id.
        """
        for start in range(first, len(self), size):
            stop = min(start + size, len(self))
            yield start, self._between(start, stop)

    def pick(self, positions: Iterable[int]) -> list[str]:
        """Return the ids at these positions."""
        if self._held is not None:
            return [self._held[position] for position in positions]
        ends, file = self._ends, self._file.fileno()
        spans = ((ends[at], ends[at + 1] - ends[at]) for at in positions)
        return [os.pread(file, length, start).decode() for start, length in spans]

    def close(self) -> None:
        """Remove the file; this also happens when the object is garbage-collected."""
        self._scratch.close()

    def digest(self) -> bytes:
        """Return a digest of 32 bytes of these ids in this order; it is computed once."""
        if not self._digest:
            state = blake2b(digest_size=32)
            for text in self:
                encoded = text.encode()
                state.update(len(encoded).to_bytes(_INDEX, "big") + encoded)
            self._digest = state.digest()
        return self._digest

    def _between(self, start: int, stop: int) -> list[str]:
        if self._held is not None:
            return self._held[start:stop]
        ends = self._ends[start : stop + 1]
        first = ends[0]
        data = os.pread(self._file.fileno(), ends[-1] - first, first)
        return [data[a - first : b - first].decode() for a, b in pairwise(ends)]

    def _spool(self, stream: Iterator[str]) -> None:
        strange, unencodable = _Positions(), _Positions()
        key = secrets.token_bytes(32)  # so that nobody can choose ids that share a bucket
        # The number of ids is not known yet. Up to this many, no bucket exceeds its size.
        seen = Records(16 + _INDEX, _BUCKETS * self._scratch.bucket_ids, self._scratch)
        position, end = 0, 0
        while block := list(islice(stream, _BLOCK)):
            rows = []
            with naming(self._scratch.folder):
                for text in block:
                    encoded = _encoded(text)
                    if encoded is None:
                        (unencodable if isinstance(text, str) else strange).add(position)
                        encoded = b""
                    self._file.write(encoded)
                    end += len(encoded)
                    self._ends.append(end)
                    rows.append(blake2b(encoded, digest_size=16, key=key).digest())
                    rows[-1] += position.to_bytes(_INDEX, "big")
                    position += 1
            seen.add(rows)
        with naming(self._scratch.folder):
            self._file.flush()
        strange.refuse("not a string")
        unencodable.refuse("not encodable as UTF-8")
        repeated: list[int] = []
        for records in seen.in_buckets():
            met: set[bytes] = set()
            for record in records:
                if record[:16] in met:
                    repeated.append(int.from_bytes(record[16:], "big"))
                met.add(record[:16])
        seen.close()
        _Positions(sorted(repeated)).refuse("repeated")


class _Positions:
    """Counts the ids with one defect, and remembers the first few positions."""

    def __init__(self, found: Iterable[int] = ()) -> None:
        self._count, self._first = 0, list[int]()
        for position in found:
            self.add(position)

    def add(self, position: int) -> None:
        self._count += 1
        if len(self._first) < _SHOWN:
            self._first.append(position)

    def refuse(self, what: str) -> None:
        if self._count:
            shown = ", ".join(map(str, self._first))
            more = ", ..." if self._count > _SHOWN else ""
            noun = "id is" if self._count == 1 else "ids are"
            raise IdsError(f"{self._count} {noun} {what}; positions (from 0): {shown}{more}")


def _check_list(own: list[str]) -> None:
    _Positions(i for i, text in enumerate(own) if not isinstance(text, str)).refuse("not a string")
    _Positions(i for i, text in enumerate(own) if _encoded(text) is None).refuse(
        "not encodable as UTF-8"
    )
    if len(set(own)) != len(own):
        seen: set[str] = set()
        repeated = _Positions()
        for position, text in enumerate(own):
            if text in seen:
                repeated.add(position)
            seen.add(text)
        repeated.refuse("repeated")


def _encoded(text: object) -> bytes | None:
    # The UnicodeEncodeError holds the id, so it must not be chained to the error that is raised.
    try:
        return text.encode() if isinstance(text, str) else None
    except UnicodeEncodeError:
        return None
