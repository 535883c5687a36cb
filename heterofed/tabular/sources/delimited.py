"""Reads tables in text files: it finds the delimiter and the names of columns, and checks rows.

Every row must have as many fields as the header, and every quote must be closed. Faults that a
lenient reader would fill up or skip are errors that name the line.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.sources.engine import (
    MEMORY_MB,
    READING_MB,
    Scratch,
    connect,
    interruptible,
    literal,
    need_duckdb,
    settle,
)
from heterofed.tabular.sources.header import is_header, made_up
from heterofed.tabular.sources.plain_text import PlainText
from heterofed.tabular.sources.source import Cells, Relation
from heterofed.tabular.sources.tag_lines import columns_before_tags, write_table

if TYPE_CHECKING:
    import duckdb

DELIMITERS = (",", ";", "\t", "|")
ON_DISK = 256 << 20
"""The size in bytes from which on a table is kept in the scratch folder and not in memory."""

STREAMED_ON_DISK = 8 << 20
"""The same of a table that is streamed."""

_NAMELESS = "\0"
"""The prefix of a placeholder for a name, which no text contains."""

_LONGEST_LINE = 1 << 24
_SHOWN = {"\t": "tab"}


def read_delimited(
    path: Path,
    *,
    delimiter: str | None,
    encoding: str | None,
    header: bool | None = None,
    name: str = "",
    streams: bool = False,
) -> Relation:
    """Return the table in a CSV file or a similar one, with any delimiter, encoding and
    compression.

    Args:
        path: the path of the file.
        delimiter: the delimiter between fields; None to detect it.
        encoding: the encoding of the text; None to detect it.
        header: whether the first line names the columns; None to detect it.
        name: the name of the file in messages; empty for its own name.
        streams: see `heterofed.tabular.sources.open_source`.

    Raises:
        ConfigError: the file cannot be read; the message has the line.
        ColumnError: two columns have the same name, or a column with values has none.
    """
    scratch = Scratch()
    text = PlainText(path, encoding, scratch)
    name, sample = name or path.name, text.sample()
    tags = None if header or delimiter is not None else columns_before_tags(sample)
    if tags is not None:
        place = scratch.place(".csv")
        write_table(text.path, tags, name, place)
        text.path, delimiter = place, ","
        sample = text.sample()
    if delimiter is None:
        delimiter = delimiter_of(sample)
        if delimiter != ",":
            text.notes.append(f"fields are parted by {_SHOWN.get(delimiter, repr(delimiter))}")
    elif len(delimiter) != 1:
        raise ConfigError(f"delimiter {delimiter!r}: give one character")
    first, second = _first_rows(sample, delimiter, name, header)
    found = (tags is None and is_header(first, second)) if header is None else header
    columns = _named(first, second, name) if found else made_up(len(first))
    if not found:
        text.notes.append(_no_header(columns, is_given=header is False, has_tags=tags is not None))
    given = (scratch, text.path, columns, delimiter, _escape(sample), name)
    connection = _loaded(*given, header=found, streams=streams)
    relation = Relation(
        connection,
        scratch,
        "cells",
        "rowid",
        {each: Cells(f"c{at}", "VARCHAR") for at, each in enumerate(columns)},
        tuple(text.notes),
        has_header=bool(found),
        delimiter=delimiter,
    )
    return _without_nameless(relation, len(first), name)


def _loaded(
    scratch: Scratch,
    path: Path,
    columns: list[str],
    delimiter: str,
    escape: str,
    name: str,
    *,
    header: bool,
    streams: bool,
) -> duckdb.DuckDBPyConnection:
    """A database with the table `cells`, whose columns are called `c0`, `c1`, ..."""
    large = path.stat().st_size >= (STREAMED_ON_DISK if streams else ON_DISK)
    memory = READING_MB if streams else MEMORY_MB
    connection = connect(scratch, large=large, columns=len(columns), memory=memory)
    listed = ", ".join(f"'c{at}': 'VARCHAR'" for at in range(len(columns)))
    try:
        with interruptible():
            connection.execute(
                f"CREATE TABLE cells AS SELECT * FROM read_csv({literal(str(path))},"  # noqa: S608
                f" delim = {literal(delimiter)}, quote = '\"', escape = {literal(escape)},"
                f" header = {str(header).lower()}, auto_detect = false, strict_mode = true,"
                f" null_padding = false, nullstr = '', columns = {{{listed}}})"
            )
            if large:
                settle(connection, len(columns))
    except need_duckdb().OutOfMemoryException:
        raise ConfigError(
            f"{name}: its {len(columns)} columns do not fit into memory; leave out such as are not"
            " needed, or write it as Parquet"
        ) from None
    except need_duckdb().Error as error:
        raise ConfigError(f"{name}, {_fault(str(error), len(columns), delimiter)}") from None
    return connection


def _no_header(columns: list[str], *, is_given: bool, has_tags: bool) -> str:
    """Return a note about columns to which names were given."""
    shown = ", ".join(columns[:4]) + (", ..." if len(columns) > 4 else "")
    last = f", and {columns[-1]} holds the tags of a line" if has_tags else ""
    how = "" if is_given else " (found out; header=True or --header if it is one)"
    return f"its first line is no header, so its columns are called {shown}{last}{how}"


def delimiter_of(sample: str) -> str:
    """Return the delimiter with which most lines have the same number of fields, above one.

    If there are several such delimiters in a file without a header, the first one in the file
    counts.
    """

    def score(delimiter: str) -> tuple[float, int]:
        widths = Counter(len(row) for row in _rows(sample, delimiter) if row)
        (width, times), *_ = widths.most_common(1) or [(1, 1)]
        return (times / max(widths.total(), 1), width) if width > 1 else (0.0, 1)

    scores = {each: score(each) for each in DELIMITERS}
    best = max(DELIMITERS, key=lambda each: scores[each])
    alike = [each for each in DELIMITERS if scores[each][0] == scores[best][0] > 0]
    line = sample.lstrip().partition("\n")[0]
    foremost = min(alike, key=line.find) if alike else best
    rows = _rows(sample, foremost)[:2]
    return foremost if rows and not is_header(rows[0], rows[-1]) else best


def _rows(sample: str, delimiter: str) -> list[list[str]]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_LINE))
    try:
        return list(csv.reader(sample.splitlines(keepends=True)[:1000], delimiter=delimiter))
    except csv.Error:
        return []


def _escape(sample: str) -> str:
    return "\\" if '\\"' in sample and '""' not in sample else '"'


def _first_rows(
    sample: str, delimiter: str, name: str, header: bool | None
) -> tuple[list[str], list[str]]:
    """Return the fields of the first two lines; empty for the second if the first is the only
    row.
    """
    rows = [row for row in _rows(sample, delimiter) if any(row)][:2]
    if not rows:
        raise ConfigError(f"{name} holds no table: its first line must name the columns")
    first = [each.strip() for each in rows[0]]
    if len(rows) == 1 and (header or (header is None and is_header(first, []))):
        raise ConfigError(f"{name} has a header and no rows below it")
    return first, rows[1] if len(rows) > 1 else []


def _named(header: list[str], first: list[str], name: str) -> list[str]:
    """Return the names of the columns; a column without a name gets a placeholder."""
    twice = [each for each, times in Counter(filter(None, header)).items() if times > 1]
    if twice:
        places = [at for at, each in enumerate(header, 1) if each == twice[0]]
        raise ColumnError(
            f"{name}, line 1: columns {' and '.join(map(str, places))} are both called"
            f" {twice[0]!r}; rename one, or say that there is no header"
        )
    beyond = [""] * (len(first) - len(header)) if _ends_empty(header, first) else []
    return [each or f"{_NAMELESS}{at}" for at, each in enumerate([*header, *beyond], 1)]


def _ends_empty(header: list[str], first: list[str]) -> bool:
    """Return whether rows end in a delimiter, and the header does not."""
    return len(first) == len(header) + 1 and not first[-1]


def _without_nameless(relation: Relation, named: int, name: str) -> Relation:
    """Leave out empty columns without a name; `named` has the fields of the header."""
    for at, (column, cells) in enumerate(relation.columns.items(), 1):
        if not column.startswith(_NAMELESS):
            continue
        select = f"SELECT min(rowid) FROM cells WHERE {cells.sql} IS NOT NULL"  # noqa: S608
        row = relation.connection.execute(select).fetchall()[0][0]
        if row is not None and at > named:
            raise ConfigError(
                f"{name}, row {row + 1}: {at} fields where the header names {named}; name every"
                " column, and put a field that holds the delimiter in quotes"
            )
        if row is not None:
            raise ColumnError(f"{name}, line 1: column {at} has no name and holds values; name it")
    kept = {each: at for each, at in relation.columns.items() if not each.startswith(_NAMELESS)}
    return replace(relation, columns=kept)


def _fault(said: str, width: int, delimiter: str) -> str:
    """Return DuckDB's error in our words, because its own message quotes the cells."""
    line = re.search(r"CSV Error on Line: (\d+)", said)
    where = f"line {line[1]}: " if line else ""
    found = re.search(r"Expected Number of Columns: \d+ Found: (\d+)", said)
    if found:
        shown = _SHOWN.get(delimiter, repr(delimiter))
        return (
            f"{where}{found[1]} fields where the header names {width} (parted by {shown}); put a"
            " field that holds the delimiter in quotes, and complete a row that was cut off"
        )
    if "quote" in said or "Maximum line size" in said or "line size" in said:
        return (
            f"{where}a quote is opened and not closed, or stands within a field; close it, and"
            ' write a quote within a quoted field twice ("")'
        )
    return f"{where}this is no row of a table in text; is a quote out of place?"
