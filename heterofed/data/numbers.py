"""Converts columns to float32, and refuses numbers that this would change.

Fractions are rounded to 24 bits, as in any conversion to float32. Whole numbers (ids, times in
nanoseconds) may need all of their digits, so they are refused if float32 cannot hold them exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heterofed.errors import ColumnError

if TYPE_CHECKING:
    import pandas as pd

MANTISSA = 1 << 24
"""float32 cannot represent every whole number above this one."""


def kind_of(dtype: str) -> str:
    """Return the kind of a pandas dtype by its name: "bool", "int" or "float"."""
    name = dtype.lower().removeprefix("sparse[")
    if name.startswith("bool"):
        return "bool"
    return "int" if name.startswith(("int", "uint")) else "float"


def could_be(values: NDArray[Any], kind: str, wanted: str) -> bool:
    """Return whether values could belong to a column of another kind.

    For example, 1.0 could belong to a column of whole numbers, and 0 and 1 to one of booleans.
    Missing values could belong to any column.
    """
    held = values[~np.isnan(values)]
    if kind == wanted or not held.size:
        return True
    if kind == "bool":
        return False
    if wanted == "bool":
        return bool(np.isin(held, (0, 1)).all())
    return wanted == "float" or bool((held == np.round(held)).all())


def exact_features(column: pd.Series[Any], name: str, filled: float) -> NDArray[np.float32]:
    """Convert a column of numbers to float32, and replace missing values by `filled`.

    Raises:
        ColumnError: the column holds infinity, or numbers that float32 would change.
    """
    held = column.dropna()
    exact = _as_float32(held, f"column {name!r}")
    if len(held) == len(column):
        return exact
    values = np.full(len(column), filled, dtype=np.float32)
    values[column.notna().to_numpy(dtype=bool)] = exact
    return values


def exact_labels(column: pd.Series[Any], name: str) -> NDArray[Any]:
    """Convert a column of labels to int64 if it holds integers or booleans, else to float32.

    Raises:
        ColumnError: the column holds infinity, or numbers that the result cannot hold.
    """
    if kind_of(str(column.dtype)) == "float":
        return _as_float32(column, f"label {name!r}")
    if any(int(each) >= 1 << 63 for each in (column.max(),)):
        raise ColumnError(f"label {name!r} holds whole numbers beyond int64; encode it")
    return np.array(column.to_numpy(dtype=np.int64))


def _as_float32(held: pd.Series[Any], what: str) -> NDArray[np.float32]:
    if kind_of(str(held.dtype)) == "int":
        whole = held.to_numpy(dtype=np.uint64 if (held >= 0).all() else np.int64)
        if not _fits(whole):
            raise _too_long(what)
        return whole.astype(np.float32)
    if "decimal" in str(held.dtype) and any(
        each % 1 == 0 and abs(each) >= MANTISSA for each in held
    ):
        raise _too_long(what)
    exact = held.to_numpy(dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        rounded = exact.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ColumnError(
            f"{what} holds infinity or numbers beyond the range of float32; correct or scale them"
        )
    if (rounded != exact).any() and (exact == np.round(exact)).all():
        raise _too_long(what)
    # Near zero float32 has fewer bits. Such a number among larger ones is zero for any model.
    if (np.abs(rounded - exact) > np.abs(exact).max(initial=0.0) / MANTISSA).any():
        raise ColumnError(f"{what} holds numbers so small that float32 would change them; scale it")
    return rounded


def _fits(whole: NDArray[Any]) -> bool:
    """Return whether the significant bits of all whole numbers fit into 24 bits."""
    size = np.where(whole < 0, 0 - whole.astype(np.uint64), whole.astype(np.uint64))
    last = size & (~size + np.uint64(1))
    return bool((size // np.maximum(last, np.uint64(1)) < MANTISSA).all())


def _too_long(what: str) -> ColumnError:
    return ColumnError(
        f"{what} holds whole numbers beyond 2**24 that float32 would change (ids, or times in"
        " nanoseconds?): leave it out, or subtract and scale it to what the model needs"
    )
