"""Keeps proof and reply of each id of a large set in a file that is sorted by proof.

The owner looks up the proofs of an asker in it. The file has "PST1", the number of ids (8 bytes),
and for each id its proof (16), its reply (16) and its position (8); numbers are big-endian. It is
mapped, so a lookup reads a few pages. Only its owner reads it.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from psi.errors import StoreError
from psi.storage.files import Draft, open_to_read
from psi.unequal.outputs import PART

POSITION = 8
ROW = 2 * PART + POSITION
_MAGIC = b"PST1"
_HEADER = len(_MAGIC) + POSITION


def write_table(path: Path, count: int, rows: Iterable[bytes]) -> None:
    """Write a table; `rows` are in ascending order."""
    with Draft(path) as draft:
        draft.write(_MAGIC + count.to_bytes(POSITION, "big"))
        stream = iter(rows)
        while block := list(islice(stream, 1 << 16)):
            draft.write(b"".join(block))
        draft.commit()


class Table:
    """The rows of a set.

    Args:
        path: the file that `write_table` wrote.

    Raises:
        StoreError: the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            with open_to_read(path) as file:
                head, size = file.read(_HEADER), os.fstat(file.fileno()).st_size
                self.count = int.from_bytes(head[len(_MAGIC) :], "big")
                if not head.startswith(_MAGIC) or size != _HEADER + self.count * ROW:
                    raise StoreError(f"{path} is damaged; replace the stored set")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise StoreError(f"{path} is missing; replace the stored set") from None

    def find(self, proof: bytes) -> tuple[bytes, int] | None:
        """Return reply and position of the id with this proof, or None if there is no such id."""
        at = bisect_left(range(self.count), proof, key=self._proof)
        if at == self.count or self._proof(at) != proof:
            return None
        row = self._row(at)
        return row[PART : 2 * PART], int.from_bytes(row[2 * PART :], "big")

    def close(self) -> None:
        """Unmap the file, which stays."""
        self._map.close()

    def _proof(self, index: int) -> bytes:
        return self._row(index)[:PART]

    def _row(self, index: int) -> bytes:
        at = _HEADER + index * ROW
        return self._map[at : at + ROW]
