"""Copies those rows of a data set in partitions whose ids all parties have, to Parquet files.

The data set, such as a Dask DataFrame, is computed a second time, partition by partition; its rows
must still have the ids that were intersected. No library of such data sets is imported.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import psi
from heterofed.errors import ColumnError, ConfigError, IdError, needing
from heterofed.files import new_file, whole_folder, writing
from heterofed.intersection.matching_rows import Marks, MatchingRows, check_out
from psi.data_sets import DataSet
from psi.sources import Column, one_of

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow


class MatchingPartitions:
    """The rows of a data set in partitions, some of which are copied.

    Args:
        source: the data set.
        id_column: the column that holds the ids; None if there is no other.
        out: the new folder for the copies, with a file for each partition in the order of their
            names. A named index becomes a column.

    Raises:
        ConfigError: pyarrow, which writes the files, is not installed.
        IdsError: there is no such column, or the first partition cannot be computed.
        ColumnError: the first partition has a column that a Parquet file cannot hold.
    """

    def __init__(self, source: DataSet, id_column: str | None, out: Path) -> None:
        self._source, self._out = source, out
        names = source.columns()
        self._place = names.index(one_of(source.name, names, id_column))
        for part in islice(source.tables(), 1):
            self._table(part, 0)

    def copy(self, ids: psi.OwnIds, common: array[int]) -> None:
        """Write the rows at the positions `common`, in their order."""
        marked = Marks(ids, common, self._source.name)
        with writing(self._out), whole_folder(self._out) as draft:
            try:
                for number, part in enumerate(self._source.tables()):
                    with new_file(draft / f"part.{number:06}.parquet") as target:
                        self._copy_part(part, number, marked, target)
            except psi.IdsError as error:
                raise IdError(f"{error}; run the task again") from None
            marked.end()

    def _copy_part(self, part: pd.DataFrame, number: int, marked: Marks, target: BinaryIO) -> None:
        import pyarrow
        from pyarrow import parquet

        rows: Iterator[tuple[int, str]] = enumerate(part.iloc[:, self._place].tolist())
        chosen = [at for at, _ in marked.chosen(rows, lambda row: row[1])]
        places = pyarrow.array(chosen, pyarrow.int64())
        parquet.write_table(self._table(part, number).take(places), target)

    def _table(self, part: pd.DataFrame, number: int) -> pyarrow.Table:
        with needing("parquet", "a Parquet file"):
            import pyarrow
        indexed = any(name is not None for name in part.index.names)
        try:
            return pyarrow.Table.from_pandas(part, preserve_index=indexed)
        except pyarrow.ArrowException as error:
            raise ColumnError(
                f"partition {number} (from 0) of {self._source.name} cannot be written as a"
                f" Parquet file ({type(error).__name__}); give each column values of one type"
            ) from None


def copier(ids: object, out: Path, setting: str) -> MatchingRows | MatchingPartitions:
    """Return what copies the rows of a source to `out`, after a check that this is possible.

    Args:
        ids: what `psi.column` returned for the source.
        out: the place of the copies.
        setting: what names this place in messages.

    Raises:
        ConfigError: it is not possible; nothing was done.
    """
    if not isinstance(ids, Column):
        raise ConfigError(f"{setting} needs to know where the rows are: give ids=psi.column(...)")
    out = out.absolute()
    check_out(ids.source, out, setting)
    if isinstance(ids.source, Path):
        return MatchingRows(ids.source, ids.name, out)
    try:
        return MatchingPartitions(ids.source, ids.name, out)
    except (psi.IdsError, ColumnError) as error:
        raise ConfigError(f"{setting}: {error}") from None
