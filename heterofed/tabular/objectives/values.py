"""Converts the values of a label column to one form: words of yes and no, numbers, or text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from heterofed.errors import ColumnError
from heterofed.tabular.kinds import FALSE, TRUE

Class = bool | int | float | str
Form = Literal["words", "numbers", "text"]

YES = frozenset({*TRUE, "1", "1.0", "positive", "pos", "阳性"})
NO = frozenset({*FALSE, "0", "0.0", "-1", "-1.0", "negative", "neg", "阴性"})


def as_series(values: Any, column: str) -> pd.Series[Any]:
    """Return one column of labels with a new index, from a Series, array, tensor or list.

    Raises:
        ColumnError: it has more than one dimension, no row, or rows without a value.
    """
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    series = pd.Series(np.asarray(array, dtype=object) if isinstance(array, list) else array)
    series = series.reset_index(drop=True)
    if series.dtype == object or isinstance(series.dtype, pd.StringDtype):
        series = series.map(lambda each: each.strip() or None if isinstance(each, str) else each)
    if not len(series):
        raise ColumnError(f"column {column!r} has no row")
    refuse_rows(series.isna(), column, "have no value; drop these rows")
    return series


def refuse_rows(bad: Any, column: str, what: str) -> None:
    """Refuse labels if some rows are bad.

    Args:
        bad: whether each row is bad.
        column: the name of the label.
        what: what is wrong with these rows and what to do; the message has it after their number.

    Raises:
        ColumnError: a row is bad; the message has the number of such rows and the first, from 1.
    """
    at = np.flatnonzero(np.asarray(bad, dtype=bool))
    if len(at):
        raise ColumnError(f"column {column!r}: {len(at)} rows (first: row {at[0] + 1}) {what}")


def form_of(distinct: list[Any]) -> Form:
    """Return the form that all distinct values of a column have."""
    said = {str(each).casefold() for each in distinct}
    if said <= YES | NO and _has_words(distinct):
        return "words"
    return "numbers" if all(as_number(each) is not None for each in distinct) else "text"


def _has_words(distinct: list[Any]) -> bool:
    return any(isinstance(each, bool | np.bool_) or as_number(each) is None for each in distinct)


def as_number(value: Any) -> float | None:
    """Return the number that a value is or that a text contains; None if there is none.

    A text with leading zeros, such as `007`, is a code and not a number.
    """
    if isinstance(value, str):
        digits = value.lstrip("+-")
        if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
            return None
        try:
            return float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float | np.number | np.bool_) else None


def in_form(value: Any, form: Form) -> Class | None:
    """Return a value as a class of the form; None if it is not one."""
    if form == "words":
        word = str(value).casefold()
        return word in YES if word in YES | NO else None
    if form == "text":
        return str(value).strip()
    number = as_number(value)
    if number is None or not math.isfinite(number):
        return None
    return int(number) if number == int(number) else number


def codes_of(
    series: pd.Series[Any], form: Form, codes: Mapping[Class, int]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the code of each row, [rows] int64; -1 for a value that is no known class."""
    at, distinct = pd.factorize(series)
    found = [in_form(each, form) for each in distinct]
    known = [-1 if each is None else codes.get(each, -1) for each in found]
    return np.asarray(known, dtype=np.int64)[at]


def numbers_of(series: pd.Series[Any], column: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the number of each row, [rows] float64.

    Raises:
        ColumnError: a value is not a finite number.
    """
    if pd.api.types.is_numeric_dtype(series.dtype):
        numbers = series.to_numpy(dtype=np.float64)
    else:
        at, distinct = pd.factorize(series)
        read = [as_number(each) for each in distinct]
        numbers = np.asarray([math.nan if each is None else each for each in read])[at]
    refuse_rows(~np.isfinite(numbers), column, "hold no finite number; correct or drop them")
    return numbers
