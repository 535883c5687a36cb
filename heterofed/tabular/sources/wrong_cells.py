"""Finds cells that are not of their column's kind, and names the first one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from heterofed.errors import ColumnError
from heterofed.tabular.kinds import Column

WORDS = {"numeric": "no number", "boolean": "no yes or no", "date": "no date of this format"}
"""The kinds that not every cell can have, in words."""


class Table(Protocol):
    """A table whose cells are looked at; a `Source` is one."""

    @property
    def name(self) -> str: ...
    def text(self, column: str) -> str: ...
    def value(self, column: Column) -> str: ...
    def query(self, select: str, **named: Any) -> list[tuple[Any, ...]]: ...


def check(table: Table, columns: Sequence[Column]) -> None:
    """Check all cells of some columns with one query.

    Raises:
        ColumnError: a cell is not of its column's kind; the message has its row.
    """
    columns = [each for each in columns if each.kind in WORDS]
    counts = ", ".join(f"count(*) FILTER (WHERE {_is_wrong(table, each)})" for each in columns)
    if counts and any(table.query("SELECT {counts} FROM {table}", counts=counts)[0]):
        name_first(table, columns)
        _name_endless(table, columns)


def name_first(table: Table, columns: Sequence[Column]) -> None:
    """Raise an error that names the first cell which is not of its column's kind, if any."""
    for column in columns:
        found = table.query(
            "SELECT min({row}) FROM {table} WHERE {text} IS NOT NULL AND TRY({value}) IS NULL",
            text=table.text(column.name),
            value=table.value(column),
        )
        if found[0][0] is not None:
            raise ColumnError(
                f"{table.name}, row {found[0][0] + 1}, column {column.name!r}: this cell is"
                f" {WORDS[column.kind]}, as those of the column are; correct it, or empty it"
                " where the value is missing"
            )


def endless(table: str, column: str, row: int) -> ColumnError:
    """Return the error for an infinity in a row (from 0)."""
    return ColumnError(
        f"{table}, row {row + 1}, column {column!r}: infinity is no value to train on;"
        " correct the cell, or empty it where the value is missing"
    )


def _is_wrong(table: Table, column: Column) -> str:
    """Return an SQL condition for the cells of a column that are not of its kind."""
    value = table.value(column)
    wrong = f"({table.text(column.name)} IS NOT NULL AND TRY({value}) IS NULL)"
    return f"{wrong} OR isinf(TRY({value}))" if column.kind == "numeric" else wrong


def _name_endless(table: Table, columns: Sequence[Column]) -> None:
    for column in columns:
        if column.kind == "numeric":
            found = table.query(
                "SELECT min({row}) FROM {table} WHERE isinf({value})", value=table.value(column)
            )
            if found[0][0] is not None:
                raise endless(table.name, column.name, found[0][0])
