"""Converts the values of a column to one type: numbers, words, dates or booleans.

A missing value becomes None or NaN. Cells are those of a file or a DataFrame: text, numbers, or
pandas' own missing values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from heterofed.errors import ColumnError
from heterofed.tabular.kinds import FALSE, TRUE

Floats = np.ndarray[Any, np.dtype[np.float64]]

YES = (*TRUE, "1", "1.0")
NO = (*FALSE, "0", "0.0", "-1", "-1.0")


def numbers(series: pd.Series[Any], name: str) -> Floats:
    """Return the numbers of a column, [rows]; NaN for a missing one.

    Raises:
        ColumnError: a cell is not a finite number; the message has the first such row.
    """
    plain = series if is_plain_number(series) else _blank_as_missing(series)
    found = pd.to_numeric(plain, errors="coerce")
    values = found.to_numpy(dtype=np.float64, na_value=np.nan)
    _refuse(np.isnan(values) & plain.notna().to_numpy(), name, "no number")
    _refuse(np.isinf(values), name, "an infinite number")
    return values


def is_plain_number(series: pd.Series[Any]) -> bool:
    """Return whether pandas holds the column as numbers."""
    return pd.api.types.is_numeric_dtype(series.dtype)


def words(series: pd.Series[Any]) -> pd.Series[Any]:
    """Return the cells of a column as text without outer white space; None for a missing one.

    Whole numbers have the same text whether pandas holds them as integers or, beside missing cells,
    as floats: `3` and `3.0` are both "3".
    """
    if pd.api.types.is_float_dtype(series.dtype):
        whole = series.isna() | (series % 1 == 0)
        if bool(whole.all()):
            series = series.astype("Int64")
    text = series.astype("string").str.strip()
    return text.where(text.notna() & (text != ""), None).astype(object)


def dates(series: pd.Series[Any], name: str) -> Floats:
    """Return the dates of a column in days since 1970, [rows]; NaN for a missing one.

    Raises:
        ColumnError: a cell is not a date; the message has the first such row.
    """
    plain = series
    if not pd.api.types.is_datetime64_any_dtype(series.dtype):
        plain = _blank_as_missing(series)
    found = pd.to_datetime(plain, errors="coerce", utc=True, format="mixed")
    _refuse(found.isna().to_numpy() & plain.notna().to_numpy(), name, "no date")
    days: pd.Series[float] = (found - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)
    return np.asarray(days, dtype=np.float64)


def truths(series: pd.Series[Any], name: str) -> Floats:
    """Return the booleans of a column as 1 and 0, [rows]; NaN for a missing one.

    Raises:
        ColumnError: a cell is neither true nor false; the message has the first such row.
    """
    text = words(series).str.casefold()
    values = np.full(len(text), np.nan)
    values[text.isin(YES).to_numpy()] = 1.0
    values[text.isin(NO).to_numpy()] = 0.0
    _refuse(np.isnan(values) & text.notna().to_numpy(), name, "neither true nor false")
    return values


def _blank_as_missing(series: pd.Series[Any]) -> pd.Series[Any]:
    text = series.astype(object)
    blank = text.map(lambda each: isinstance(each, str) and not each.strip())
    return text.where(~blank.astype(bool), None)


def _refuse(bad: np.ndarray[Any, Any], name: str, what: str) -> None:
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise ColumnError(
            f"column {name!r} holds {what} in {int(bad.sum())} rows, the first of them row"
            f" {at + 1}; correct these cells, leave them empty, or leave the column out"
        )
