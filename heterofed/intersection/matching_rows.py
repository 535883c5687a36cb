"""Copies those rows of a source whose ids all parties have, in the source's format.

Rows are streamed, so that a source may be larger than memory. They must still have the ids that
were intersected. This module knows nothing of a protocol.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeVar

import psi
from heterofed.errors import ConfigError, IdError
from heterofed.files import make_folder, new_file, whole_folder, writing
from heterofed.files.csv_text import csv_writer
from heterofed.reporting.results import check_writable, write_whole
from psi.data_sets import DataSet
from psi.sources import csv_rows, delimiter_of, one_of, partitions

Row = TypeVar("Row")


def check_out(ids: Path | DataSet | None, out: Path, setting: str = "--out") -> None:
    """Check that the result can be written, and replaces no file or folder with ids.

    Args:
        ids: the source of the ids; None for a database on a server.
        out: the place of the result.
        setting: what names this place in messages.

    Raises:
        ConfigError: it cannot, or does.
    """
    check_writable(out.parent)
    if not isinstance(ids, Path | None):
        _check_new(out, f"{setting} {out}")
    elif ids is not None and ids.is_dir():
        if out.resolve().is_relative_to(ids.resolve()):
            raise ConfigError(f"{setting} {out} is in the folder with the ids; give another folder")
        _check_new(out, f"{setting} {out}")
    elif out.is_dir():
        raise ConfigError(f"{setting} {out} is a folder; give a file")
    elif ids is not None and ids.exists() and out.exists() and out.samefile(ids):
        raise ConfigError(f"{setting} {out} is the file with the ids; give another file")


def _check_new(out: Path, named: str) -> None:
    """Refuse a place for a folder that holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"{named} is there already, and a folder of ids gives a folder; give a new one"
        )


class Marks:
    """A party's own ids in their order, with a mark on those that all parties have.

    The rows of the source are held beside them, in one pass.

    Args:
        ids: the ids.
        common: the positions of those that all parties have.
        source: the name of the source for errors.
    """

    def __init__(self, ids: psi.OwnIds, common: array[int], source: object) -> None:
        marks = bytearray(len(ids))
        for position in common:
            marks[position] = 1
        self._left = zip(ids, marks, strict=True)
        self._source = source

    def chosen(self, rows: Iterable[Row], id_of: Callable[[Row], object]) -> Iterator[Row]:
        """Yield the marked ones of the next rows.

        Raises:
            IdError: the rows have not the ids that were read.
        """
        for row in rows:
            own, wanted = next(self._left, (None, 0))
            if own is None or id_of(row) != own:
                self.changed()
            if wanted:
                yield row

    def end(self) -> None:
        """Check that no row is missing.

        Raises:
            IdError: some are.
        """
        if next(self._left, None) is not None:
            self.changed()

    def changed(self) -> NoReturn:
        """Raise the error for a source whose rows have changed."""
        raise IdError(f"{self._source} was changed while the task ran; run it again")


class MatchingRows:
    """The rows of a file, or of a folder of Parquet files, some of which are copied.

    Args:
        source: the file or folder.
        id_column: the column that holds the ids; None for a text file.
        out: the file for the copies, which is replaced if it exists; for a folder, a new folder
            with a file for each of the source.
    """

    def __init__(self, source: Path, id_column: str | None, out: Path) -> None:
        self._source, self._id_column, self._out = source, id_column, out

    def copy(self, ids: psi.OwnIds, common: array[int]) -> None:
        """Write the rows at the positions `common`, in their order and in the source's format."""
        marked = Marks(ids, common, self._source)
        if self._source.is_dir():
            self._copy_folder(marked)
            return

        def write(target: BinaryIO) -> None:
            try:
                if self._source.suffix.lower() == ".parquet":
                    self._copy_parquet(self._source, marked, target)
                elif self._id_column is None:
                    self._copy_text(marked, target)
                else:
                    self._copy_csv(self._id_column, marked, target)
            except (psi.IdsError, FileNotFoundError):  # it could be read before
                marked.changed()
            marked.end()

        write_whole(self._out, write, anywhere=True)

    def _copy_text(self, marked: Marks, target: BinaryIO) -> None:
        text = io.TextIOWrapper(target, encoding="utf-8", newline="")
        lines = psi.column(self._source)
        text.writelines(f"{line}\n" for line in marked.chosen(lines, lambda line: line))
        text.detach()  # flushes without closing the target

    def _copy_csv(self, id_column: str, marked: Marks, target: BinaryIO) -> None:
        text = io.TextIOWrapper(target, encoding="utf-8", newline="")
        rows = csv_rows(self._source)
        header = next(rows, [])
        if header.count(id_column) != 1:
            marked.changed()
        place = header.index(id_column)
        copy = csv_writer(text, delimiter_of(self._source))
        copy.writerow(header)
        chosen = marked.chosen(rows, lambda row: "".join(row[place : place + 1]))
        copy.writerows(chosen)
        text.detach()

    def _copy_folder(self, marked: Marks) -> None:
        """Write a folder with a file for each of the source, which appears whole or not at all."""
        with writing(self._out), whole_folder(self._out) as draft:
            for path in self._partitions(marked):
                place = draft / path.relative_to(self._source)
                make_folder(place.parent)
                with new_file(place) as target:
                    self._copy_parquet(path, marked, target)
            marked.end()

    def _partitions(self, marked: Marks) -> list[Path]:
        try:
            return partitions(self._source)
        except psi.IdsError:  # there were some before
            marked.changed()

    def _copy_parquet(self, source: Path, marked: Marks, target: BinaryIO) -> None:
        from pyarrow import ArrowInvalid, parquet

        try:
            opened = parquet.ParquetFile(source)
        except (OSError, ArrowInvalid):  # it could be read before
            marked.changed()
        with opened as file, parquet.ParquetWriter(target, file.schema_arrow) as writer:
            names = file.schema_arrow.names
            try:
                place = names.index(one_of(source.name, names, self._id_column))
            except psi.IdsError:
                marked.changed()
            for batch in file.iter_batches():
                rows: Iterator[tuple[int, str]] = enumerate(batch.column(place).to_pylist())
                chosen = [at for at, _ in marked.chosen(rows, lambda row: row[1])]
                if chosen:
                    writer.write_batch(batch.take(chosen))
