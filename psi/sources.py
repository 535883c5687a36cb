"""Reads ids from text, CSV, TSV and Parquet files, from folders of these, and from data sets.

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

from psi.data_sets import DataSet, data_set
from psi.errors import IdsError

_SHOWN = 10  # the most columns that an error names
_ROWS = 65_536  # rows of a Parquet file that are read at once
# The most characters in a field of a CSV file; a longer one most likely has an open quote.
_FIELD = 1 << 24


class Column:
    """The ids in one column of a source, which each iteration reads again; `column` creates it.

    Attributes:
        source: the path of a file or folder, or a data set in partitions.
        name: the name of the column; None if the source has no other.
    """

    def __init__(self, source: Path | DataSet, name: str | None) -> None:
        self.source, self.name = source, name

    def __iter__(self) -> Iterator[str]:
        source, name = self.source, self.name
        if not isinstance(source, Path):
            return _computed(source, name)
        if source.is_dir():
            return _folder(source, name)
        if source.suffix.lower() == ".parquet":
            return _parquet(source, name)
        return _text(source) if name is None else _csv(source, name)


def _computed(source: DataSet, name: str | None) -> Iterator[str]:
    chosen = one_of(source.name, source.columns(), name)
    for part in source.ids(chosen):
        yield from part.tolist()


def _folder(folder: Path, name: str | None) -> Iterator[str]:
    for path in partitions(folder):
        yield from Column(path, name)


def _text(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", newline="\n") as file, _as_text(path):
        for line in file:
            yield line.removesuffix("\n").removesuffix("\r")


def _csv(path: Path, name: str) -> Iterator[str]:
    rows = csv_rows(path)
    names = next(rows, [])
    at = names.index(one_of(path.name, names, name))
    for number, row in enumerate(rows):
        if len(row) <= at:
            raise IdsError(f"row {number} (from 0) of {path.name} is too short")
        yield row[at]


def _parquet(path: Path, name: str | None) -> Iterator[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise IdsError(
            f"{path.name} is a Parquet file, which needs an extra: pip install 'heterofed[parquet]'"
        ) from None
    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid:
        raise IdsError(f"{path.name} is not a Parquet file, or is damaged") from None
    with file:
        chosen = one_of(path.name, file.schema_arrow.names, name)
        for batch in file.iter_batches(batch_size=_ROWS, columns=[chosen]):
            yield from batch.column(0).to_pylist()


def one_of(source: str, names: list[str], name: str | None) -> str:
    """Return the name of the column of the ids.

    Args:
        source: the name of the source for errors.
        names: the columns of the source.
        name: the column, or None for the only one.

    Raises:
        IdsError: there is no such column, or there are several.
    """
    if name is None and len(names) > 1:
        raise IdsError(
            f"{source} has {len(names)} columns: {_listed(names)}; say which one holds the ids"
        )
    if not names:
        raise IdsError(f"{source} is empty; its first line should name the columns")
    if name is None:
        return names[0]
    times = names.count(name)
    if times == 0:
        raise IdsError(f"{source} has no column {name!r}; its columns: {_listed(names)}")
    if times > 1:
        raise IdsError(f"{source} has {times} columns {name!r}; rename all but one")
    return name


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


def column(path: object, name: str | None = None) -> Column:
    """Return the ids in a file or data set, which are read when they are needed.

    Args:
        path: a Parquet file, whose name ends in `.parquet` (this needs pyarrow), a folder of such
            files, which are read in the order of their paths, or UTF-8 text. If the name ends in
            `.tsv`, tabs separate the columns. Or a Dask DataFrame or Series, or a Ray Dataset,
            whose partitions are computed one after another.
        name: the column of a table; None for a text file with one id per line, or for a Parquet
            file or data set with one column. An id is exactly what the file holds: nothing is
            stripped. Numbers in Parquet files are refused, because parties might write them
            differently.

    Raises:
        IdsError: the source is neither of these; or it has no such column or is not of that kind,
            which iterating raises.
    """
    if isinstance(path, str | os.PathLike):
        return Column(Path(path), name)
    found = data_set(path)
    if found is not None:
        return Column(found, name)
    raise IdsError(
        f"a column of a {type(path).__name__} needs nothing of this: give it as it is, such as"
        ' frame["id"]'
    )
