"""Columns as float32, or not at all: numbers that it would change are refused.

A fraction is rounded to 24 bits, as every float is. A whole number says what it says in all of its
digits (ids, times in nanoseconds), and is refused where float32 has no room for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heterofed.errors import ColumnError

if TYPE_CHECKING:
    import pandas as pd

MANTISSA = 1 << 24
"""From here on float32 does not hold every whole number."""


def kind_of(dtype: str) -> str:
    """Whether a pandas dtype, by its name, is "bool", "int" or "float"."""
    name = dtype.lower().removeprefix("sparse[")
    if name.startswith("bool"):
        return "bool"
    return "int" if name.startswith(("int", "uint")) else "float"


def could_be(values: NDArray[Any], kind: str, wanted: str) -> bool:
    """Whether values could have stood in a column of another kind: 1.0 among whole numbers, 0 and
    1 among booleans. Missing ones could stand anywhere.
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
    """A column of numbers as float32, with `filled` for missing ones.

    Raises:
        ColumnError: it holds infinity, or numbers that float32 would change.
    """
    held = column.dropna()
    exact = _as_float32(held, f"column {name!r}")
    if len(held) == len(column):
        return exact
    values = np.full(len(column), filled, dtype=np.float32)
    values[column.notna().to_numpy(dtype=bool)] = exact
    return values


def exact_labels(column: pd.Series[Any], name: str) -> NDArray[Any]:
    """A column of labels as int64 where they are integers or booleans, else as float32.

    Raises:
        ColumnError: it holds infinity, or numbers that these cannot hold.
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
        raise ColumnError(f"{what} holds infinity or numbers beyond float32; mend it")
    if (rounded != exact).any() and (exact == np.round(exact)).all():
        raise _too_long(what)
    # Near zero float32 has fewer bits; one such number among larger ones is zero for any model.
    if (np.abs(rounded - exact) > np.abs(exact).max(initial=0.0) / MANTISSA).any():
        raise ColumnError(f"{what} holds numbers so small that float32 would change them; scale it")
    return rounded


def _fits(whole: NDArray[Any]) -> bool:
    """Whether whole numbers have at most 24 bits between their first and their last one."""
    size = np.where(whole < 0, 0 - whole.astype(np.uint64), whole.astype(np.uint64))
    last = size & (~size + np.uint64(1))
    return bool((size // np.maximum(last, np.uint64(1)) < MANTISSA).all())


def _too_long(what: str) -> ColumnError:
    return ColumnError(
        f"{what} holds whole numbers beyond 2**24 that float32 would change (ids, or times in"
        " nanoseconds?): leave it out, or subtract and scale it to what the model needs"
    )
