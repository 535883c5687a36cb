"""Defines a table that can be read whole, in parts, or by row, with cells as text or converted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from heterofed.errors import ColumnError
from heterofed.tabular.kinds import MISSING, Column, converted, pattern_of, plain
from heterofed.tabular.sources import wrong_cells
from heterofed.tabular.sources.engine import Scratch, interruptible, need_duckdb
from heterofed.tabular.sources.row_file import RowFile

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

Positions = Sequence[int] | np.ndarray[Any, np.dtype[np.int64]]
"""The numbers of rows, from 0."""

VECTOR = 2048
"""The number of rows that DuckDB handles at a time."""

SMALL_CELLS = 8_000_000
"""The most cells of a table whose rows are taken from memory and not from a file of records."""

STREAMED_CELLS = 1_000_000
"""The same of a table that is streamed."""

_AT_ONCE = 500
"""The most columns that one query reads, because a query's planning time grows faster than that."""

_ABSENT = 0.6
"""The similarity of a name to an existing one above which a message suggests that one."""


@dataclass(frozen=True, slots=True)
class Cells:
    """One column in DuckDB: its name there, quoted for SQL, and its type."""

    sql: str
    type: str


@dataclass(frozen=True, slots=True)
class Relation:
    """The place of the cells.

    Attributes:
        connection: the connection to DuckDB, which is closed when the last source over it is gone.
        scratch: the private folder, which is deleted at the same time.
        table: the SQL expression after FROM.
        row: the SQL expression for the number of a row, from 0.
        columns: the cells of each column by the user's name for it, in their order. DuckDB does not
            distinguish upper from lower case in names, so its own names may be others.
        notes: what was detected when the table was opened, for the user.
        has_header: whether the names of the columns are in the table.
        is_streamed: whether few rows are needed at a time; see `open_source`.
        delimiter: the sign between the fields of a text file; empty for other tables.
    """

    connection: duckdb.DuckDBPyConnection
    scratch: Scratch
    table: str
    row: str
    columns: dict[str, Cells]
    notes: tuple[str, ...] = field(default=())
    has_header: bool = True
    is_streamed: bool = False
    delimiter: str = ""


class Source:
    """A party's table, which `open_source` makes.

    Cells are text until `typed` has set their kinds. A cell that stands for a missing value
    (nothing, `NA`, `null`, `?`, ...) is missing in either case. Rows keep the order of the file,
    and are counted from 0 in arguments and from 1 in messages.

    Attributes:
        name: the name for messages, such as the name of the file.
        columns: the names of the columns, in their order.
        rows: the number of rows.
        notes: what was detected when the table was opened, for the user.
    """

    def __init__(
        self,
        name: str,
        relation: Relation,
        *,
        missing: str | Iterable[str] = MISSING,
        kinds: Sequence[Column] | None = None,
        as_written: bool = False,
    ) -> None:
        self.name, self._as_written = name, as_written
        self._relation = relation
        self._missing = missing if isinstance(missing, str) else pattern_of(missing)
        self._kinds = None if kinds is None else {each.name: each for each in kinds}
        self.columns = tuple(relation.columns if self._kinds is None else self._kinds)
        self.rows: int = self.query("SELECT count(*) FROM {table}")[0][0]
        self.notes = relation.notes
        self._held: pd.DataFrame | None = None
        self._records: RowFile | None = None

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        return f"<Source {self.name}: {self.rows} rows, {len(self.columns)} columns>"

    def must_have(self, columns: Iterable[str]) -> None:
        """Check that there are columns with these names.

        Raises:
            ColumnError: a column does not exist; the message suggests a similar name.
        """
        for name in columns:
            if name not in self.columns:
                why = "" if self._relation.has_header else " (its first line names no columns)"
                meant = _meant(name, self.columns)
                raise ColumnError(f"{self.name} has no column {name!r}{meant}{why}")

    def typed(self, columns: Iterable[Column]) -> Source:
        """Return these columns of the same table, with converted cells by each column's kind.

        "numeric" and "boolean" give float64 (NaN for a missing value), "date" datetime64 in UTC
        (NaT), and all others str (NaN). A cell that is not of its kind is an error when it is read.

        Raises:
            ColumnError: the table does not have one of them.
        """
        columns = list(columns)
        self.must_have(each.name for each in columns)
        return Source(self.name, self._relation, missing=self._missing, kinds=columns)

    def as_written(self) -> Source:
        """Return the same table with each cell as its exact text, for ids; only an empty cell is
        missing.
        """
        return Source(self.name, self._relation, as_written=True)

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return all rows of some columns, or of all of them.

        Raises:
            ColumnError: a column does not exist, or a cell is not of its column's kind; the message
                has its row.
        """
        names = self._chosen(columns)
        if self._held is not None:
            return self._held[names].copy()
        return self._checked(self._read(names), 0)

    def _read(self, names: list[str]) -> pd.DataFrame:
        import pandas

        parts = [names[at : at + _AT_ONCE] for at in range(0, len(names), _AT_ONCE)] or [[]]
        frames = [self._run(part, lambda cursor: cursor.df()) for part in parts]
        frame: pd.DataFrame = pandas.concat(frames, axis=1).set_axis(names, axis=1)
        return frame

    def chunks(
        self, rows: int = 65_536, columns: Sequence[str] | None = None
    ) -> Iterator[pd.DataFrame]:
        """Yield the table in parts, in order; one part is in memory at a time.

        Args:
            rows: the number of rows in a part, rounded up to a multiple of 2048; the last may have
                fewer.
            columns: the columns to read; None for all.

        Raises:
            ColumnError: the same as in `frame`.
        """
        names, vectors, start = self._chosen(columns), -(-rows // VECTOR), 0
        cursor = self._run(names, lambda cursor: cursor)
        while len(part := self._guarded(names, lambda: cursor.fetch_df_chunk(vectors))):
            part.index += start
            yield self._checked(part.set_axis(names, axis=1), start)
            start += len(part)

    def take(self, positions: Positions, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the rows at some positions (from 0), in their order.

        The first call reads the whole table: into memory, or into a private file of records if it
        is large.

        Raises:
            ColumnError: the same as in `frame`.
            IndexError: there is no such row.
        """
        names = self._chosen(columns)
        if self.is_large:
            return self._row_file().take(positions)[names]
        if self._held is None:
            self._held = self.frame()
        return self._held.iloc[np.asarray(positions, dtype=np.int64)][names]

    def among(
        self, positions: Positions, columns: Sequence[str] | None = None
    ) -> Iterator[pd.DataFrame]:
        """Yield the rows at some positions part by part, in the order of the table and each once.

        The index of a part has the positions of its rows.

        Args:
            positions: the positions, from 0.
            columns: the columns to read; None for all.

        Raises:
            ColumnError: the same as in `frame`.
        """
        wanted = np.zeros(self.rows, dtype=bool)
        wanted[np.asarray(positions, dtype=np.int64)] = True
        for part in self.chunks(16_384, columns):
            start = int(part.index[0])
            if (chosen := wanted[start : start + len(part)]).any():
                yield part[chosen]

    @property
    def is_large(self) -> bool:
        """Whether the table is too large to be held in memory."""
        most = STREAMED_CELLS if self._relation.is_streamed else SMALL_CELLS
        return self.rows * len(self.columns) > most

    @property
    def delimiter(self) -> str:
        """The sign between the fields of a text file; empty for other tables."""
        return self._relation.delimiter

    @property
    def scratch(self) -> Scratch:
        """The private folder of this table's files."""
        return self._relation.scratch

    def _row_file(self) -> RowFile:
        if self._records is None:
            kinds = self._kinds or {each: Column(name=each, kind="text") for each in self.columns}
            relation = self._relation
            self._records = RowFile(list(kinds.values()), self.chunks(), relation.scratch)
        return self._records

    def query(self, select: str, **named: Any) -> list[tuple[Any, ...]]:
        """Return the rows of an SQL query over `{table}`, with `{row}` for a row's number.

        It is for this package only, because `select` is trusted.
        """
        relation = self._relation
        text = select.format(table=relation.table, row=relation.row, **named)
        with interruptible():
            return relation.connection.cursor().execute(text).fetchall()

    def every(self, step: int) -> str:
        """Return an SQL clause for each `step`-th row of the table."""
        return f"WHERE {self._relation.row} % {step} = 0" if step > 1 else ""

    def text(self, column: str) -> str:
        """Return an SQL expression for the cells of a column as text; NULL for a missing value."""
        cells = self._relation.columns[column]
        return plain(cells.sql, cells.type, self._missing)

    def cells(self, column: str) -> str:
        """Return an SQL expression for the original cells of a column, as text."""
        return f"CAST({self._relation.columns[column].sql} AS VARCHAR)"

    def cleaned(self, cells: str) -> str:
        """Return an SQL expression for `cells` without spaces; NULL for a missing value."""
        return plain(cells, "VARCHAR", self._missing)

    def type_of(self, column: str) -> str:
        """Return the DuckDB type of the original cells of a column."""
        return self._relation.columns[column].type

    def value(self, column: Column) -> str:
        """Return an SQL expression for the converted cells of a column."""
        cells = self._relation.columns[column.name]
        return converted(cells.sql, cells.type, column, self._missing)

    def _chosen(self, columns: Sequence[str] | None) -> list[str]:
        names = list(self.columns if columns is None else columns)
        self.must_have(names)
        return names

    def _cell(self, name: str) -> str:
        if self._as_written:
            return f"NULLIF({self.cells(name)}, '')"
        if self._kinds is None:
            return self.text(name)
        return self.value(self._kinds[name])

    def check_cells(self) -> None:
        """Check that every cell is of its column's kind; no row is kept.

        Raises:
            ColumnError: a cell is not; the message has its row.
        """
        columns = list((self._kinds or {}).values())
        for at in range(0, len(columns), _AT_ONCE):
            wrong_cells.check(self, columns[at : at + _AT_ONCE])

    def _run(self, names: Sequence[str], read: Any) -> Any:
        shown = ", ".join(f"{self._cell(name)} AS c{at}" for at, name in enumerate(names))
        select = f"SELECT {shown or 'NULL'} FROM {self._relation.table}"  # noqa: S608
        cursor = self._relation.connection.cursor()
        return self._guarded(names, lambda: read(cursor.execute(select)))

    def _guarded(self, names: Sequence[str], read: Any) -> Any:
        try:
            with interruptible():
                return read()
        except need_duckdb().Error:
            kinds = self._kinds or {}
            wrong_cells.name_first(self, [kinds[name] for name in names if name in kinds])
            raise

    def _checked(self, frame: pd.DataFrame, start: int) -> pd.DataFrame:
        for column in (self._kinds or {}).values():
            if column.kind == "numeric" and column.name in frame:
                endless = np.isinf(frame[column.name].to_numpy(dtype=float))
                if endless.any():
                    row = start + int(endless.argmax())
                    raise wrong_cells.endless(self.name, column.name, row)
        return frame


def _meant(name: str, columns: Sequence[str]) -> str:
    """Return a message about a column that does not exist."""
    from difflib import get_close_matches

    lower = {each.lower().strip(): each for each in columns}
    close = [lower[each] for each in get_close_matches(name.lower(), lower, 2, _ABSENT)]
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(map(repr, columns[:8])) + (", ..." if len(columns) > 8 else "")
    return f"; its columns are {shown}"
