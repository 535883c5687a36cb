"""Converts a DataFrame to the bytes of a CSV file; the caller writes them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from heterofed.files.csv_text import csv_writer

_AT_ONCE = 65_536
"""The number of rows that are converted at a time."""


def csv_of(frame: pd.DataFrame, *, header: bool = True) -> bytes:
    """Return the frame as CSV in UTF-8, without its index.

    A missing cell is empty; a float that is no number (`nan`) is not missing.

    Args:
        frame: the frame.
        header: whether the first line names the columns.
    """
    text = io.StringIO(newline="")
    writer = csv_writer(text)
    if header:
        writer.writerow(frame.columns)
    writer.writerows(zip(*(_cells(column) for _, column in frame.items()), strict=True))
    return text.getvalue().encode()


def write_csv(frame: pd.DataFrame, file: BinaryIO) -> None:
    """Write the frame as CSV, with a header; some rows at a time are in memory as text."""
    file.write(csv_of(frame.iloc[:0]))
    for part in _parts(frame):
        file.write(csv_of(part, header=False))


def _parts(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    return (frame.iloc[at : at + _AT_ONCE] for at in range(0, len(frame), _AT_ONCE))


def _cells(column: pd.Series[Any]) -> pd.Series[Any]:
    is_float = isinstance(column.dtype, np.dtype) and column.dtype.kind == "f"
    if is_float or (known := column.notna()).all():
        return column
    return column.astype(object).where(known, None)
