"""Keeps prepared rows that do not fit into memory in a private file, with one record per row.

A record holds a row's numbers, the codes of its categories, and the place of its tokens in a second
file. The rows of a batch are read from the file when they are needed. Nothing is mapped into
memory, so the operating system caches as much of the file as it has space for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from heterofed.files import new_file
from heterofed.tabular.prepare import Bag, Inputs, Preparation
from heterofed.tabular.sources import Source
from heterofed.tabular.sources.row_file import opened

Array = np.ndarray[Any, np.dtype[Any]]

_TOKENS = np.dtype([("at", "<i8"), ("count", "<i4")])
_TOKEN = np.dtype([("token", "<i4"), ("weight", "<f4")])


def prepared(source: Source, positions: Array, preparation: Preparation) -> Inputs | PreparedRows:
    """Return the rows of a table at some positions in the form that a model reads, in their order.

    Args:
        source: the table with the columns of the preparation, typed.
        positions: the numbers of the rows, from 0.
        preparation: the fitted preparation.

    Raises:
        ColumnError: the table has values that the columns cannot hold.
    """
    if source.is_large:
        return PreparedRows(source, positions, preparation)
    return preparation.apply(source.take(positions))


class PreparedRows:
    """Rows in a file, which is deleted when this object or the source is no longer used.

    Args:
        source, positions, preparation: the arguments of `prepared`.
    """

    def __init__(self, source: Source, positions: Array, preparation: Preparation) -> None:
        shape = preparation.shape
        self._dense, self._codes, self._bags = len(shape.dense), dict(shape.codes), list(shape.bags)
        parts: list[tuple[Any, ...]] = [("dense", "<f4", (self._dense,))]
        parts += [
            (f"codes {at}", "<i4", (len(table.sizes),))
            for at, table in enumerate(shape.codes.values())
        ]
        parts += [(f"bag {at}", _TOKENS) for at in range(len(self._bags))]
        self._type = np.dtype(parts)
        wanted = np.zeros(source.rows, dtype=bool)
        wanted[positions] = True
        self._slots = (np.cumsum(wanted, dtype=np.int32) - 1)[positions]
        scratch = source.scratch
        records, tokens = scratch.place(".prepared"), scratch.place(".tokens")
        with new_file(records) as to_records, new_file(tokens) as to_tokens:
            for frame in source.among(positions):
                inputs = preparation.apply(frame)
                to_records.write(self._recorded(inputs, to_tokens).tobytes())
        self._scratch, self._paths = scratch, (records, tokens)
        self._records_in, self._tokens_in = (_read_and_gone(each, self) for each in self._paths)

    def __len__(self) -> int:
        return len(self._slots)

    def take(self, rows: Tensor) -> Inputs:
        """Return some of the rows, whose numbers are int64 of shape [chosen], in their order."""
        slots = self._slots[rows.numpy()].astype(np.int64)
        found = np.frombuffer(self._read(slots), self._type)
        codes = {
            name: torch.from_numpy(found[f"codes {at}"].astype(np.int64))
            for at, name in enumerate(self._codes)
        }
        bags = {name: self._bag(found[f"bag {at}"]) for at, name in enumerate(self._bags)}
        return Inputs(torch.from_numpy(found["dense"].copy()), codes, bags)

    def _read(self, slots: Array) -> bytearray:
        """Return the records of some rows; consecutive rows are read at once."""
        width = self._type.itemsize
        cuts = np.flatnonzero(np.diff(slots) != 1) + 1
        starts = slots[np.concatenate([[0], cuts])] if len(slots) else slots
        counts = np.diff(np.concatenate([[0], cuts, [len(slots)]])) if len(slots) else slots
        read = bytearray()
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            read += os.pread(self._records_in, count * width, start * width)
        return read

    def _recorded(self, inputs: Inputs, tokens: BinaryIO) -> Array:
        records = np.empty(len(inputs), self._type)
        records["dense"] = inputs.dense.numpy()
        for at, codes in enumerate(inputs.codes.values()):
            records[f"codes {at}"] = codes.numpy()
        for at, name in enumerate(self._bags):
            bag, starts = inputs.bags[name], inputs.bags[name].starts.numpy()
            records[f"bag {at}"]["at"] = tokens.tell() // _TOKEN.itemsize + starts[:-1]
            records[f"bag {at}"]["count"] = np.diff(starts)
            pairs = np.empty(len(bag.tokens), _TOKEN)
            pairs["token"], pairs["weight"] = bag.tokens.numpy(), bag.weights.numpy()
            tokens.write(pairs.tobytes())
        return records

    def _bag(self, places: Array) -> Bag:
        width = _TOKEN.itemsize
        read = b"".join(
            os.pread(self._tokens_in, count * width, at * width) for at, count in places.tolist()
        )
        pairs = np.frombuffer(read, _TOKEN)
        starts = np.concatenate([[0], np.cumsum(places["count"], dtype=np.int64)])
        return Bag(
            torch.from_numpy(pairs["token"].astype(np.int64)),
            torch.from_numpy(pairs["weight"].copy()),
            torch.from_numpy(starts),
        )


def _read_and_gone(path: Path, owner: object) -> int:
    """Return a handle to read a file that has no name any more; its space is freed with the
    handle.
    """
    handle = opened(path, owner)
    path.unlink()
    return handle
