"""Counts the cells of a table's columns by their forms: numbers, dates, words, tags.

The counting is one SQL query for many columns. What the counts mean is not decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from heterofed.tabular.kinds import FALSE, TRUE, as_number, trimmed
from heterofed.tabular.sources import Source

_AT_ONCE = 500
_CELLS_AT_ONCE = 2_000_000
"""The most columns, and cells, in which one query counts; it holds every different cell of a
column.
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of the cells of one column."""

    present: int = 0
    distinct: int = 0
    numbers: int = 0
    not_number: int | None = None
    """The first row that is not a number."""
    marked: int = 0
    """The number of numbers with a decimal comma."""
    grouped: int = 0
    """The number of numbers with commas where these could stand between thousands."""
    surely_grouped: int = 0
    """The number of those that cannot have a decimal comma."""
    large: int = 0
    """The number of numbers from 1000 on without such commas."""
    percents: int = 0
    """The number of numbers before a percent sign."""
    marked_percents: int = 0
    """The same of numbers with a decimal comma, or without decimals."""
    padded: int = 0
    """The number of cells of digits with a leading zero."""
    whole: int = 0
    written: int = 0
    """The number of numbers in any of these writings."""
    not_written: int | None = None
    """The first row that is not such a number, nor a list of digits between commas."""
    endless: int | None = None
    """The first row that holds infinity."""
    least: float | None = None
    greatest: float | None = None
    booleans: int = 0
    dates: int = 0
    tags: int = 0
    lists: int = 0
    """The number of cells with several words between semicolons or bars."""
    length: float = 0.0
    words: float = 0.0


def _counted() -> str:
    """Return the SQL sums over cells x, of which n is the number if the cell is one."""
    marked = r"'^[-+]?(\d+|\d{1,3}(\.\d{3})+),\d+$'"
    words = "|".join((*TRUE, *FALSE))
    date = r"'^(\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}日?|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})([ T]\d.*)?$'"
    tags = r"'^[^\s:,;|]+:[-+.\deE]+([ ,;|]+[^\s:,;|]+:[-+.\deE]+)*$'"

    grouped = r"'^[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?$'"
    surely_grouped = r"'^[-+]?[1-9]\d{0,2}((,\d{3}){2,}|,\d{3}\.\d+)'"
    percents = r"'^[-+]?\d*\.?\d+ ?%$'"
    marked_percents = r"'^[-+]?\d+(,\d+)? ?%$'"
    lists = r"'^[^\s,;|]+([;|][^\s,;|]+)+$'"

    written = " OR ".join(
        f"regexp_matches(x, {each})" for each in (marked, grouped, percents, marked_percents)
    )
    other = rf"NOT ({written} OR regexp_matches(x, '^\d+(,\d+)+$'))"

    def text(test: str) -> str:  # Most cells are numbers, so nothing else is tried on them.
        return f"count_if(CASE WHEN n IS NULL THEN {test} ELSE false END)"

    return f"""
        count(*), count(DISTINCT x),
        count(n), min(row) FILTER (n IS NULL),
        {text(f"regexp_matches(x, {marked})")},
        {text(f"regexp_matches(x, {grouped})")},
        {text(f"regexp_matches(x, {surely_grouped})")},
        count_if(abs(n) >= 1000),
        {text(f"regexp_matches(x, {percents})")},
        {text(f"regexp_matches(x, {marked_percents})")},
        count_if(x LIKE '0%' AND regexp_matches(x, '^0\\d+$')),
        coalesce(count_if(n = floor(n)), 0),
        count(n) + {text(written)},
        min(row) FILTER (CASE WHEN n IS NULL THEN {other} ELSE false END),
        min(row) FILTER (isinf(n)),
        min(n), max(n),
        {text(f"regexp_full_match(lower(x), '{words}')")},
        {text(f"regexp_matches(x, {date})")},
        {text(f"regexp_matches(x, {tags})")},
        {text(f"regexp_matches(x, {lists})")},
        avg(length(x)), avg({_SPACES})
    """


_SPACES = "CASE WHEN n IS NULL THEN 1 + length(x) - length(replace(x, ' ', '')) ELSE 1 END"

_NUMBER = f"CASE WHEN contains(x, '_') THEN NULL ELSE TRY({as_number('x', 'x', 'VARCHAR')}) END"
"""The SQL expression for a number; DuckDB alone would also take 1_000 for a number."""


def count_cells(source: Source, sample: str, rows: int) -> dict[str, Counts]:
    """Return the counts of every column that has a value.

    Args:
        source: the table, with its original cells.
        sample: an SQL clause that chooses the rows.
        rows: the number of rows that it chooses.
    """
    found = dict[str, Counts]()
    for names in _portions(source.columns, rows):
        found |= _count(source, sample, names)
    return found


def count_missing(source: Source, columns: Sequence[str], sample: str, rows: int) -> dict[str, int]:
    """Return how many cells of some columns are missing, by what stands in them; "" if nothing.

    Args:
        source: the table, with its original cells.
        columns: the names of the columns.
        sample: an SQL clause that chooses the rows.
        rows: the number of rows that it chooses.
    """
    found = Counter[str]()
    for names in _portions(columns, rows):
        cells = source.query(
            "SELECT {cell}, count(*) FROM (SELECT unnest([{cells}]) AS cell FROM {table} {sample})"
            " WHERE {cleaned} IS NULL GROUP BY 1",
            cell=trimmed("coalesce(cell, '')"),
            cells=", ".join(map(source.cells, names)),
            cleaned=source.cleaned("cell"),
            sample=sample,
        )
        found.update(dict(cells))
    return dict(found.most_common())


def _portions(columns: Sequence[str], rows: int) -> Iterator[Sequence[str]]:
    """Yield as many columns as one query counts."""
    width = min(_AT_ONCE, max(1, _CELLS_AT_ONCE // max(1, rows)))
    for start in range(0, len(columns), width):
        yield columns[start : start + width]


def _count(source: Source, sample: str, names: Sequence[str]) -> dict[str, Counts]:
    """Count in some columns, which are put under each other: one set of sums for all.

    An UNPIVOT of many columns would take minutes to plan.
    """
    found = source.query(
        "SELECT col, {counted} FROM (SELECT row, col, x, {number} AS n FROM (SELECT row, col,"
        " {cleaned} AS x FROM (SELECT {row} AS row, unnest(range({width})) AS col,"
        " unnest([{cells}]) AS cell FROM {table} {sample})) WHERE x IS NOT NULL) GROUP BY col",
        counted=_counted(),
        number=_NUMBER,
        cleaned=source.cleaned("cell"),
        width=len(names),
        cells=", ".join(map(source.cells, names)),
        sample=sample,
    )
    return {names[each]: Counts(*counts) for each, *counts in found}
