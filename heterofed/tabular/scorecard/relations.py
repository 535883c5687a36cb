"""Measures how the columns of one party are related."""

from __future__ import annotations

import numpy as np
import pandas as pd

from heterofed.errors import ColumnError


def correlations(frame: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's rank correlation of each pair of numeric columns.

    Missing values are left out pair by pair, and a constant column has NaN.
    """
    return _numbers(frame).corr(method="spearman")


def variance_inflation(frame: pd.DataFrame) -> pd.Series[float]:
    """Return the variance inflation factor of each numeric column.

    It is 1 / (1 - R2) of a linear regression of the column on the others. It is 1 for an
    independent column, above 5 to 10 if the others nearly determine the column, and infinite if
    they determine it exactly. It is the diagonal of the inverse of the correlation matrix. Missing
    values are replaced by the mean of their column, and constant columns have NaN.
    """
    numbers = _numbers(frame)
    filled = numbers.fillna(numbers.mean())
    varied = filled.loc[:, filled.std(ddof=0) > 0]
    result = pd.Series(np.nan, index=numbers.columns, name="vif")
    if varied.shape[1] == 0:
        return result
    matrix = np.corrcoef(varied.to_numpy(), rowvar=False).reshape(varied.shape[1], -1)
    values, vectors = np.linalg.eigh(matrix)
    # Of a singular matrix the inverse is infinite for the columns that its null space holds.
    near_zero = values < 1e-10 * len(values)
    inverse = (vectors**2) @ (1 / np.where(near_zero, 1, values))
    tied = (vectors[:, near_zero] ** 2).sum(axis=1) > 1e-8
    result[varied.columns] = np.where(tied, np.inf, inverse)
    return result


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    numbers = frame.select_dtypes(["number", "bool"]).astype("float64")
    if np.isinf(numbers.to_numpy()).any():
        raise ColumnError("a column holds infinity; correct it first")
    return numbers
