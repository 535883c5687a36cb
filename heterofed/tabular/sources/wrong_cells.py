"""Finds cells that are not of their column's kind, and names the first one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heterofed.errors import ColumnError
from heterofed.tabular.kinds import Column

if TYPE_CHECKING:
    from heterofed.tabular.sources.source import Source

WORDS = {"numeric": "no number", "boolean": "no yes or no", "date": "no date of this format"}
"""The kinds that not every cell can have, in words."""


def check(source: Source, columns: Sequence[Column]) -> None:
    """Check all cells of some columns with one query.

    Raises:
        ColumnError: a cell is not of its column's kind; the message has its row.
    """
    columns = [each for each in columns if each.kind in WORDS]
    counts = ", ".join(f"count(*) FILTER (WHERE {_is_wrong(source, each)})" for each in columns)
    if counts and any(source.query("SELECT {counts} FROM {table}", counts=counts)[0]):
        name_first(source, columns)
        _name_endless(source, columns)


def name_first(source: Source, columns: Sequence[Column]) -> None:
    """Raise an error that names the first cell which is not of its column's kind, if any."""
    for column in columns:
        found = source.query(
            "SELECT min({row}) FROM {table} WHERE {text} IS NOT NULL AND TRY({value}) IS NULL",
            text=source.text(column.name),
            value=source.value(column),
        )
        if found[0][0] is not None:
            raise ColumnError(
                f"{source.name}, row {found[0][0] + 1}, column {column.name!r}: this cell is"
                f" {WORDS[column.kind]}, as those of the column are; correct it, or empty it"
                " where the value is missing"
            )


def endless(table: str, column: str, row: int) -> ColumnError:
    """Return the error for an infinity in a row (from 0)."""
    return ColumnError(
        f"{table}, row {row + 1}, column {column!r}: infinity is no value to train on;"
        " correct the cell, or empty it where the value is missing"
    )


def _is_wrong(source: Source, column: Column) -> str:
    """Return an SQL condition for the cells of a column that are not of its kind."""
    value = source.value(column)
    wrong = f"({source.text(column.name)} IS NOT NULL AND TRY({value}) IS NULL)"
    return f"{wrong} OR isinf(TRY({value}))" if column.kind == "numeric" else wrong


def _name_endless(source: Source, columns: Sequence[Column]) -> None:
    for column in columns:
        if column.kind == "numeric":
            found = source.query(
                "SELECT min({row}) FROM {table} WHERE isinf({value})", value=source.value(column)
            )
            if found[0][0] is not None:
                raise endless(source.name, column.name, found[0][0])
