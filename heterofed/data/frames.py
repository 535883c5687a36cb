"""Reads files of tables into DataFrames of pandas, and checks names of columns and ids."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heterofed.errors import ColumnError, ConfigError, IdError, needing

if TYPE_CHECKING:
    import pandas as pd


def read_frame(
    path: Path, id_column: str, wanted: Sequence[str] | None, encoding: str
) -> pd.DataFrame:
    """Read a CSV or Parquet file.

    Args:
        path: the path of a file whose name ends in `.csv`, `.csv.gz` or `.parquet`.
        id_column: the column that holds the ids; those of a CSV file keep their leading zeros.
        wanted: the columns of a Parquet file to read; None: all.
        encoding: the text encoding of a CSV file.

    Raises:
        ConfigError: pandas is not installed, the file cannot be read, or a row has more fields than
            the header.
        ColumnError: a column does not exist, or two have the same name.
    """
    need_pandas()
    try:
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path, wanted)
        if ".csv" in [each.lower() for each in path.suffixes]:
            return _read_csv(path, id_column, encoding)
        raise ConfigError(f"{path.name}: give a file that ends in .csv or .parquet")
    except (ConfigError, ColumnError):
        raise
    except (UnicodeError, LookupError) as error:
        raise ConfigError(
            f"{path} cannot be read as {encoding} text ({type(error).__name__}): give the"
            ' encoding that it was written in, such as encoding="gbk" or "latin-1", or save it'
            " as UTF-8"
        ) from None
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}); give a whole CSV or Parquet file"
        ) from error


def _read_parquet(path: Path, wanted: Sequence[str] | None) -> pd.DataFrame:
    with needing("parquet", "a Parquet file"):
        from pyarrow import parquet

    must_be_among(parquet.read_schema(path).names, wanted or ())
    frame: pd.DataFrame = need_pandas().read_parquet(path, columns=wanted)
    return frame


def _read_csv(path: Path, id_column: str, encoding: str) -> pd.DataFrame:
    """Read all columns of a CSV file. Ids are read as text, such as `007`, `NA` or `null`.

    A comma at the end of each row, or also of the header, makes no column.
    """
    pandas = need_pandas()
    plain: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": encoding}
    header = list(pandas.read_csv(path, header=None, nrows=1, **plain).iloc[0])
    must_differ([name for name in header if name])  # otherwise pandas would rename them
    must_be_among(header, [id_column])
    # Otherwise pandas uses the first column as the index if rows are longer than the header.
    form: dict[str, Any] = {"index_col": False, "encoding": encoding}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        try:
            frame: pd.DataFrame = pandas.read_csv(path, dtype={id_column: str}, **form)
        except (pandas.errors.ParserWarning, pandas.errors.ParserError):
            raise ConfigError(
                f"{path.name} has rows with more fields than its header names; name every column,"
                " and put fields that hold commas in quotes"
            ) from None
    # Read the ids separately: pandas would take an id "NA" for a missing value.
    ids = pandas.read_csv(path, usecols=[id_column], index_col=False, **plain)[id_column]
    nameless = [
        name
        for name, written in zip(frame.columns, header, strict=False)
        if not written and frame[name].isna().all()
    ]
    return frame.assign(**{id_column: ids.where(ids != "")}).drop(columns=nameless)


def need_pandas() -> Any:
    """Return the pandas module.

    Raises:
        ConfigError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ConfigError("tables need pandas: pip install pandas") from None
    return pandas


def must_have(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Check that a table has columns of these names.

    Raises:
        ColumnError: a column does not exist.
    """
    must_be_among(list(frame.columns), names)


def must_be_among(columns: Sequence[str], names: Sequence[str]) -> None:
    """Check that all names are names of columns; raises ColumnError."""
    absent = [name for name in names if name not in columns]
    if absent:
        raise ColumnError(f"the table has no column {absent[0]!r}; name one of {list(columns)}")


def must_differ(columns: Sequence[str]) -> None:
    """Check that no two columns have one name; raises ColumnError."""
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if twice:
        raise ColumnError(f"the table has more than one column {twice[0]!r}; rename one")


def ids_in(series: pd.Series[Any] | pd.Index[Any]) -> list[object]:
    """Convert ids to strings.

    Raises:
        IdError: ids are missing, or they are booleans or fractions.
    """
    pandas = need_pandas()
    absent = int(np.count_nonzero(series.isna()))
    if absent:
        raise IdError(f"{absent} rows of the table have no id; drop them")
    if pandas.api.types.is_bool_dtype(series.dtype):
        raise IdError("the ids of the table are True and False; name the column that holds ids")
    if pandas.api.types.is_integer_dtype(series.dtype):
        return [str(each) for each in series]
    if pandas.api.types.is_float_dtype(series.dtype):
        raise IdError("the ids of the table are fractions; read that column as str (dtype=str)")
    # An object column may hold any of these types; True does not count as a number.
    return [
        str(each)
        if isinstance(each, int | np.integer) and each is not True and each is not False
        else each
        for each in series.tolist()
    ]
