"""Converts a DataFrame to the bytes of a CSV file; the caller writes them."""

from __future__ import annotations

import csv
import io

import pandas as pd


def csv_of(frame: pd.DataFrame) -> bytes:
    """Return the frame as CSV in UTF-8, with a header and without its index."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(frame.columns)
    writer.writerows(frame.itertuples(index=False, name=None))
    return text.getvalue().encode()
