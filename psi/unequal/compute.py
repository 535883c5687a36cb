"""Computes the outputs of a large set once, and writes its filter and its table.

The outputs are collected in buckets on disk by their order, so that only one bucket at a time is
sorted in memory. Filter and table follow from the key and the ids, so they are the same bytes
whether or not the computation was interrupted. This module knows no peer.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from psi.executors.frames import pack, unpack
from psi.storage.id_list import OwnIds
from psi.storage.spill import Records, Scratch, cut, in_order
from psi.unequal.filter import Shape, write_filter
from psi.unequal.outputs import PART, check_of, own_outputs, public_of
from psi.unequal.table import POSITION, ROW, write_table
from psi.unequal.unfinished import Unfinished
from psi.workers import Workers

Progress = Callable[[int], None]
_BLOCK = 8192  # ids that are computed at once
_OUTPUT = 3 * PART


class Outputs:
    """The outputs of a set under one key.

    Args:
        domain: the domain, which both parties must give the same.
        ids: the ids of the owner.
        unfinished: has the key and the outputs of an interrupted creation, and keeps further ones.
        workers: compute the outputs.
        scratch: holds outputs that are not sorted yet.
        progress: is called with the number of computed outputs after each block.

    Attributes:
        public: the public key.
    """

    def __init__(
        self,
        domain: bytes,
        ids: OwnIds,
        unfinished: Unfinished,
        workers: Workers,
        scratch: Scratch,
        progress: Progress | None = None,
    ) -> None:
        self._key, self.public = unfinished.key, public_of(unfinished.key)
        self._domain, self._ids, self._workers = domain, ids, workers
        self._unfinished = unfinished
        self._tags = Records(PART, len(ids), scratch, in_order)
        self._rows = Records(ROW, len(ids), scratch, in_order)
        self._progress = progress

    def write(self, shape: Shape, filter_path: Path, table_path: Path) -> None:
        """Compute all outputs, and write the two files."""
        done = 0
        for outputs in self._blocks():
            done += self._add(done, outputs)
            if self._progress is not None:
                self._progress(done)
        check = check_of(self.public, self._domain)
        write_filter(filter_path, shape, self.public, check, _in_order(self._tags))
        write_table(table_path, len(self._ids), _in_order(self._rows))

    def _blocks(self) -> Iterator[bytes]:
        """Yield the outputs of all ids in their order; those that were computed come first."""
        done = 0
        for outputs in self._unfinished.outputs():
            done += len(outputs) // _OUTPUT
            yield outputs
        for start, block in self._ids.blocks(_BLOCK, done):
            outputs = self._compute(start, block)
            self._unfinished.append(outputs)
            yield outputs

    def _compute(self, start: int, block: list[str]) -> bytes:
        def work(part: Sequence[tuple[int, str]]) -> bytes:
            ids = pack([text.encode() for _, text in part])
            first = part[0][0].to_bytes(POSITION, "big")
            got = self._workers.call(outputs_of, self._key, self._domain, ids, first)
            if len(got) != _OUTPUT * len(part) or not self._same(got, part):
                raise self._workers.wrong()
            return got

        return b"".join(self._workers.spread(work, list(enumerate(block, start))))

    def _add(self, start: int, joined: bytes) -> int:
        """Sort in the outputs of some ids, and return their number."""
        outputs = cut(joined, _OUTPUT)
        self._tags.add(each[:PART] for each in outputs)
        self._rows.add(
            each[PART:] + position.to_bytes(POSITION, "big")
            for position, each in enumerate(outputs, start)
        )
        return len(outputs)

    def _same(self, got: bytes, part: Sequence[tuple[int, str]]) -> bool:
        """Return whether one output, drawn at random, is what this process computes."""
        if not self._workers.pooled:
            return True
        at = secrets.randbelow(len(part))
        position, text = part[at]
        own = own_outputs(self._key, self._domain, [text], position)
        return got[at * len(own) : (at + 1) * len(own)] == own


def outputs_of(key: bytes, domain: bytes, ids: bytes, first: bytes) -> bytes:
    """See `own_outputs`; this function runs in the worker, to which only bytes are sent."""
    texts = [text.decode() for text in unpack(ids)]
    return own_outputs(key, domain, texts, int.from_bytes(first, "big"))


def _in_order(records: Records) -> Iterator[bytes]:
    for bucket in range(records.buckets):
        yield from sorted(records.read(bucket))
        records.forget(bucket)
    records.close()
