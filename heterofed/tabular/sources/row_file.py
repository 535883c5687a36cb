"""Keeps rows that do not fit into memory in a private file of records, each found by one read.

In a file that is ordered by columns, each cell of a row would be at a place of its own. Here all
values of a row are together. A record has 8 bytes for a number, a boolean or a date, 4 for a
category (its position in a list in memory) and 12 for other text (its position in a second file,
and its length).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from heterofed.files import new_file
from heterofed.tabular.kinds import Column, Kind
from heterofed.tabular.sources.engine import Scratch

if TYPE_CHECKING:
    import pandas as pd

_NUMBERS: tuple[Kind, ...] = ("numeric", "boolean")
_CODED: tuple[Kind, ...] = ("category", "constant")
_TEXT = np.dtype([("at", "<i8"), ("length", "<i4")])
_MISSING = -1

Array = np.ndarray[Any, np.dtype[Any]]


class RowFile:
    """The records of a table, in the order of its rows.

    Args:
        columns: the columns and their kinds.
        parts: the whole table, as `Source.chunks` of these columns yields it.
        scratch: the folder for the files.
    """

    def __init__(
        self, columns: Sequence[Column], parts: Iterable[pd.DataFrame], scratch: Scratch
    ) -> None:
        self._columns = list(columns)
        self._type = np.dtype([(f"c{at}", _type_of(each)) for at, each in enumerate(columns)])
        self._words = [dict[str, int]() for _ in columns]
        records, texts = scratch.place(".rows"), scratch.place(".text")
        with new_file(records) as to_records, new_file(texts) as to_texts:
            for part in parts:
                to_records.write(self._records(part, to_texts).tobytes())
        self._listed = [np.array([*each, None], dtype=object) for each in self._words]
        self._records_in, self._texts_in = opened(records, self), opened(texts, self)
        self.rows = records.stat().st_size // max(self._type.itemsize, 1)

    def take(self, positions: Sequence[int] | Array) -> pd.DataFrame:
        """Return the rows at some positions, in their order.

        Raises:
            IndexError: there is no such row.
        """
        import pandas

        wanted = np.asarray(positions, np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < self.rows):
            raise IndexError(f"rows are from 0 to {self.rows - 1}")
        width = self._type.itemsize
        read = b"".join(os.pread(self._records_in, width, at * width) for at in wanted.tolist())
        found = np.frombuffer(read, self._type)
        columns = {
            each.name: self._values(at, each, found) for at, each in enumerate(self._columns)
        }
        return pandas.DataFrame(columns, index=wanted)

    def _records(self, part: pd.DataFrame, texts: BinaryIO) -> Array:
        records = np.empty(len(part), self._type)
        for at, column in enumerate(self._columns):
            cells = part[column.name]
            if column.kind in _NUMBERS:
                records[f"c{at}"] = cells.to_numpy(dtype=np.float64)
            elif column.kind == "date":
                records[f"c{at}"] = cells.to_numpy(dtype="datetime64[us]").view(np.int64)
            elif column.kind in _CODED:
                records[f"c{at}"] = self._coded(at, cells)
            else:
                records[f"c{at}"] = _written(cells, texts)
        return records

    def _coded(self, at: int, cells: pd.Series[Any]) -> Array:
        import pandas

        codes, values = pandas.factorize(cells)
        words = self._words[at]
        places = [words.setdefault(str(each), len(words)) for each in values]
        return np.array([*places, _MISSING], np.int32)[codes]

    def _values(self, at: int, column: Column, found: Array) -> Any:
        import pandas

        cells = found[f"c{at}"]
        if column.kind in _NUMBERS:
            return cells
        if column.kind == "date":
            return cells.view("datetime64[us]")
        if column.kind in _CODED:
            return pandas.array(self._listed[at][cells], dtype="str")
        return pandas.array(list(self._texts(cells)), dtype="str")

    def _texts(self, cells: Array) -> Iterator[str | None]:
        for start, length in cells.tolist():
            known = length != _MISSING
            yield os.pread(self._texts_in, length, start).decode() if known else None


def _type_of(column: Column) -> Any:
    if column.kind in _NUMBERS:
        return "<f8"
    if column.kind == "date":
        return "<i8"
    return "<i4" if column.kind in _CODED else _TEXT


def _written(cells: pd.Series[Any], texts: BinaryIO) -> Array:
    """Write texts one after another, and return the position of each."""
    known = cells.notna().to_numpy()
    encoded = [
        cell.encode() if is_known else b"" for cell, is_known in zip(cells, known, strict=True)
    ]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    found = np.empty(len(encoded), _TEXT)
    found["at"] = texts.tell() + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    found["length"] = np.where(known, lengths, _MISSING)
    texts.write(b"".join(encoded))
    return found


def opened(path: Path, owner: object) -> int:
    """Return a handle to read a file, which is closed when its owner is no longer used."""
    stack = ExitStack()
    handle = stack.enter_context(path.open("rb")).fileno()
    weakref.finalize(owner, stack.close)
    return handle
