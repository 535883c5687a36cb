"""Ids out of files, one at a time: text, CSV, TSV, Parquet. Knows files, nothing of a protocol.

Everything that takes ids takes any iterable of strings, so a list, a generator or a pandas Series
needs nothing from here. A column can be read more than once, and holds no more than a block.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psi.errors import IdsError

_SHOWN = 10  # columns named in a message
_ROWS = 65_536  # rows of a Parquet file read at a time
_FIELD = 1 << 24  # characters in a field of a CSV file; more is most likely a quote left open


class Column:
    """The ids in one column of a file; iterating reads the file anew. Made by `column`."""

    def __init__(self, path: Path, name: str | None) -> None:
        self._path, self._name = path, name

    def __iter__(self) -> Iterator[str]:
        if self._path.suffix.lower() == ".parquet":
            return self._parquet()
        return self._text() if self._name is None else self._csv(self._name)

    def _text(self) -> Iterator[str]:
        with self._path.open(encoding="utf-8-sig", newline="\n") as file, _as_text(self._path):
            for line in file:
                yield line.removesuffix("\n").removesuffix("\r")

    def _csv(self, name: str) -> Iterator[str]:
        rows = csv_rows(self._path)
        at = self._place(next(rows, []), name)
        for number, row in enumerate(rows):
            if len(row) <= at:
                raise IdsError(f"row {number} (from 0) of {self._path.name} is too short")
            yield row[at]

    def _parquet(self) -> Iterator[str]:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise IdsError(
                f"{self._path.name} is a Parquet file, which needs an extra:"
                " pip install 'heterofed[parquet]'"
            ) from None
        try:
            file = parquet.ParquetFile(self._path)
        except pyarrow.ArrowInvalid:
            raise IdsError(f"{self._path.name} is not a Parquet file, or is damaged") from None
        with file:
            names = file.schema_arrow.names
            if self._name is None and len(names) != 1:
                raise IdsError(
                    f"{self._path.name} has {len(names)} columns: {_listed(names)};"
                    " say which one holds the ids"
                )
            name = names[self._place(names, names[0] if self._name is None else self._name)]
            for batch in file.iter_batches(batch_size=_ROWS, columns=[name]):
                yield from batch.column(0).to_pylist()

    def _place(self, names: list[str], name: str) -> int:
        times = names.count(name)
        if not names:
            raise IdsError(f"{self._path.name} is empty; its first line should name the columns")
        if times == 0:
            raise IdsError(
                f"{self._path.name} has no column {name!r}; its columns: {_listed(names)}"
            )
        if times > 1:
            raise IdsError(f"{self._path.name} has {times} columns {name!r}; rename all but one")
        return names.index(name)


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown + (", ..." if len(names) > _SHOWN else "")


def delimiter_of(path: Path) -> str:
    """What separates the fields of a table in text: tabs in `.tsv`, commas in all others."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def csv_rows(path: Path) -> Iterator[list[str]]:
    """The rows of a table in text, its head first; a line without anything is no row.

    Raises:
        IdsError: this is not UTF-8 text, or no table.
    """
    # The module's own limit, which holds in the whole process, is too short for some ids.
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD))
    with path.open(encoding="utf-8-sig", newline="") as file, _as_text(path):
        reader = csv.reader(file, delimiter=delimiter_of(path))
        try:
            yield from filter(None, reader)
        except csv.Error as error:
            raise IdsError(
                f"line {reader.line_num} of {path.name}: {error}; is a quote left open?"
            ) from None


@contextmanager
def _as_text(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError:  # it holds what was read, so it goes no further
        raise IdsError(
            f"{path.name} is not UTF-8 text; save it as that, or convert it: iconv -f GBK -t UTF-8"
            " where it is GBK"
        ) from None


def column(path: str | os.PathLike[str], name: str | None = None) -> Column:
    """The ids in a file, read as they are needed.

    Args:
        path: a Parquet file (ending in `.parquet`; needs pyarrow), else UTF-8 text, with tabs
            between the columns where it ends in `.tsv`.
        name: the column of a CSV, TSV or Parquet file; None for a text file of one id per line, or
            a Parquet file of one column. An id is exactly what the file holds: nothing is stripped,
            and numbers in Parquet are refused, since parties might write them differently.

    Raises:
        IdsError: while it is read: no such column, or not a file of that kind.
    """
    return Column(Path(path), name)
