"""Converts the cells of columns to values by the kind of each column.

A kind is determined once, on the table with which a model is trained, and is kept with the model.
Rows of later predictions are converted by the same kind, whatever their own file looks like.
Conversions are SQL expressions over one column, so DuckDB runs them in parallel and with limited
memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from heterofed.errors import ConfigError

Kind = Literal["numeric", "category", "boolean", "date", "text", "tags", "constant", "id"]

_SPACE = "[\\s\u00a0]"

KINDS: tuple[Kind, ...] = get_args(Kind)

MISSING = (
    *("", "?", "-", ".", "\\N", "<NA>", "#N/A", "#N/A N/A", "#NA", "#VALUE!", "#DIV/0!"),
    *("N/A", "NA", "NULL", "NaN", "NaT", "None", "n/a", "na", "nan", "null", "none"),
    *("-NaN", "-nan", "1.#IND", "1.#QNAN", "-1.#IND", "-1.#QNAN"),
)
"""The cells that stand for a missing value: those of pandas, and those of spreadsheets and
banks.
"""

THOUSANDS = "1,000"
"""The format of numbers with a comma between thousands."""

TRUE = ("true", "t", "yes", "y", "on", "是", "真")
FALSE = ("false", "f", "no", "n", "off", "否", "假")

DATE_FORMATS: tuple[str, ...] = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d"),
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"),
    *("%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S"),
    *("%Y年%m月%d日", "%Y年%m月%d日 %H:%M", "%Y年%m月%d日 %H:%M:%S"),
)
"""The formats of dates that are tried beside ISO 8601, which needs no format."""

_NUMERIC_TYPES: tuple[str, ...] = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
)
_NUMERIC_TYPES += ("UINTEGER", "UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL")
_DATE_TYPES = ("DATE", "TIMESTAMP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table, and how its cells are converted.

    Attributes:
        name: the name of the column in the table.
        kind: the kind of its values.
        format: for dates, the `strptime` format, or empty for ISO 8601; for numbers, "," if that is
            the decimal mark, or "1,000" if it stands between thousands, with "%" behind it if the
            cells end with that.
    """

    name: str
    kind: Kind
    format: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"column {self.name!r}: kind {self.kind!r} is none of {KINDS}")


def is_numeric(type_: str) -> bool:
    """Return whether a DuckDB type is a type of numbers."""
    return type_.startswith(_NUMERIC_TYPES) and not type_.endswith("]")


def pattern_of(missing: Iterable[str]) -> str:
    """Return a regular expression for DuckDB that matches cells which stand for a missing value.

    It is one expression, because a list of texts would become a join for each column.
    """
    listed = "|".join(re.sub(r"([^\w\s])", r"\\\1", each) for each in missing)
    return f"^{_SPACE}*({listed})?{_SPACE}*$".replace("'", "''")


_NO_NUMBER = pattern_of(MISSING)
"""Return whether none of these texts is a number."""


def plain(cell: str, type_: str, missing: str) -> str:
    """Return an SQL expression for a cell without spaces around it; NULL for a missing value.

    Args:
        cell: an SQL expression.
        type_: its DuckDB type.
        missing: the result of `pattern_of` for the texts that stand for a missing value.
    """
    if is_numeric(type_):
        return f"NULLIF(CAST({cell} AS VARCHAR), 'nan')"
    text = f"CAST({cell} AS VARCHAR)"
    return f"CASE WHEN regexp_matches({text}, '{missing}') THEN NULL ELSE {trimmed(text)} END"


def trimmed(text: str) -> str:
    """Return an SQL expression for a text without white space around it."""
    return f"trim({text}, ' \t\r\n\u00a0')"


def converted(cell: str, type_: str, column: Column, missing: str) -> str:
    """Return an SQL expression for the value of a cell: DOUBLE, TIMESTAMP or VARCHAR, or NULL.

    It fails if a cell is not of the column's kind; under `TRY` it is NULL then.

    Args:
        cell: an SQL expression.
        type_: its DuckDB type.
        column: the column, with its kind.
        missing: the result of `pattern_of` for the texts that stand for a missing value.
    """
    text = plain(cell, type_, missing)
    if column.kind == "numeric":
        number = as_number(cell, text, type_, column.format)
        is_plain = missing == _NO_NUMBER and not column.format and not is_numeric(type_)
        # Most cells are numbers, and an expression with a pattern takes ten times as
        # long as this one; "nan" is missing either way.
        return f"COALESCE(TRY_CAST({cell} AS DOUBLE), {number})" if is_plain else number
    if column.kind == "boolean":
        return as_boolean(cell, text, type_)
    if column.kind == "date":
        return as_date(cell, text, type_, column.format)
    return text


def as_number(cell: str, text: str, type_: str, mark: str = "") -> str:
    """Return an SQL expression for a DOUBLE; `mark` is the format of the column's numbers."""
    if is_numeric(type_) or type_ == "BOOLEAN":
        return f"CAST({cell} AS DOUBLE)"
    if mark.endswith("%"):
        text = f"rtrim({text}, ' %')"
    if mark.startswith(","):
        text = f"replace(replace({text}, '.', ''), ',', '.')"
    elif mark.startswith(THOUSANDS):
        text = f"replace({text}, ',', '')"
    return f"CAST({text} AS DOUBLE)"


def as_boolean(cell: str, text: str, type_: str) -> str:
    """Return an SQL expression for the 1.0 or 0.0 of a cell."""
    if type_ == "BOOLEAN" or is_numeric(type_):
        return f"CAST(CAST({cell} AS BOOLEAN) AS DOUBLE)"
    true, false = ("|".join(words) for words in (TRUE, FALSE))
    return (
        f"CASE WHEN regexp_full_match(lower({text}), '{true}|1(\\.0)?') THEN 1.0"
        f" WHEN regexp_full_match(lower({text}), '{false}|0(\\.0)?') THEN 0.0"
        f" ELSE CAST('no truth value: ' || {text} AS DOUBLE) END"
    )


def as_date(cell: str, text: str, type_: str, format_: str = "") -> str:
    """Return an SQL expression for the TIMESTAMP of a cell, in UTC if it names a zone."""
    if type_.startswith("TIMESTAMP WITH"):
        return f"CAST({cell} AT TIME ZONE 'UTC' AS TIMESTAMP)"
    if type_.startswith(_DATE_TYPES):
        return f"CAST({cell} AS TIMESTAMP)"
    if format_:
        return f"strptime({text}, '{format_}')"
    return f"CAST({text} AS TIMESTAMP)"
