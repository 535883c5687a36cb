"""Reads ids from text, CSV, TSV and Parquet files, and from folders of Parquet files.

All functions of psi accept any iterable of strings, so a list, a generator or a pandas Series needs
nothing from this module. A column can be read several times, and only one block of it is in memory.
This module knows nothing of a protocol.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psi.errors import IdsError

_SHOWN = 10  # the most columns that an error names
_ROWS = 65_536  # rows of a Parquet file that are read at once
# The most characters in a field of a CSV file; a longer one most likely has an open quote.
_FIELD = 1 << 24


class Column:
    """The ids in one column of a file, which each iteration reads again; `column` creates it."""

    def __init__(self, path: Path, name: str | None) -> None:
        self._path, self._name = path, name

    def __iter__(self) -> Iterator[str]:
        if self._path.is_dir():
            return self._folder()
        if self._path.suffix.lower() == ".parquet":
            return self._parquet()
        return self._text() if self._name is None else self._csv(self._name)

    def _folder(self) -> Iterator[str]:
        for path in partitions(self._path):
            yield from Column(path, self._name)

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


def partitions(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder and in its subfolders, in the order of their paths.

    Names that begin with a dot or an underscore belong to the writer (Spark, Dask) and are left
    out.

    Raises:
        IdsError: there are none.
    """
    found = sorted(path for path in folder.rglob("*.parquet") if path.is_file())
    own = [each for each in found if not _is_hidden(each.relative_to(folder))]
    if not own:
        raise IdsError(f"{folder.name} is a folder without a .parquet file")
    return own


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def delimiter_of(path: Path) -> str:
    """Return the separator of the fields of a text table: a tab for `.tsv`, else a comma."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def csv_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a text table, the header first; empty lines are skipped.

    Raises:
        IdsError: the file is not UTF-8 text, or not a table.
    """
    # The limit of the csv module, which applies to the whole process, is too small for some ids.
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
    except UnicodeDecodeError:  # it holds the content of the file, so it is not passed on
        raise IdsError(
            f"{path.name} is not UTF-8 text; save it as that, or convert it: iconv -f GBK -t UTF-8"
            " where it is GBK"
        ) from None


def column(path: str | os.PathLike[str], name: str | None = None) -> Column:
    """Return the ids in a file, which are read when they are needed.

    Args:
        path: a Parquet file, whose name ends in `.parquet` (this needs pyarrow), a folder of such
            files, which are read in the order of their paths, or UTF-8 text. If the name ends in
            `.tsv`, tabs separate the columns.
        name: the column of a CSV, TSV or Parquet file; None for a text file with one id per line,
            or for a Parquet file with one column. An id is exactly what the file holds: nothing is
            stripped. Numbers in Parquet files are refused, because parties might write them
            differently.

    Raises:
        IdsError: the file has no such column or is not of that kind; iterating raises it.
    """
    return Column(Path(path), name)
