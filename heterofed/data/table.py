"""A party's columns by id: checked when the table is made, read as float32 tensors afterwards."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from heterofed.data.ids import Positions
from heterofed.data.indexed import Rows
from heterofed.errors import ColumnError, ConfigError, IdError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("heterofed")

Missing = Literal["error", "mean", "zero"]

_LABEL_LIKE = re.compile(
    r"y(_true)?|is_\w+|class(es)?|diagnos[ei]s|ground_?truth|response|survived"
    # Also as the first or last of several words: label_1, credit_default, isFraud.
    r"|(\w+[_. ]|is)?(labels?|targets?|outcomes?|default(ed)?|churn(ed)?|fraud)([_. ].+)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ColumnReport:
    """What a column holds.

    Attributes:
        name, dtype: of the column.
        missing: values that are missing.
        numeric: whether it can be a feature.
    """

    name: str
    dtype: str
    missing: int
    numeric: bool

    def __str__(self) -> str:
        """One line for people."""
        kind = "" if self.numeric else ", not numeric"
        return f"{self.name}: {self.dtype}, {self.missing} missing{kind}"


class VerticalTable:
    """A party's rows, found by id.

    Args:
        frame: a pandas DataFrame with unique ids.
        id: the column that holds the ids; None: the index does. Whole numbers become strings.
        columns: the features, in this order; None: every column but ids and label. Only the Host
            has a label.
        label: the column of labels.
        missing: what to do about missing values in features: "error", or put the column's "mean"
            or "zero" in their place.

    Attributes:
        columns: names of the features.
        report: what every column holds.

    Raises:
        IdError: ids are missing, repeated or fractions.
        ColumnError: a column is not there, not numeric, has missing values, or numbers that
            float32 cannot hold.
        ConfigError: pandas is not installed, or this is no DataFrame.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        id: str | None = None,  # noqa: A002 - the field's own word
        columns: Sequence[str] | None = None,
        label: str | None = None,
        missing: Missing = "error",
    ) -> None:
        pandas = need_pandas()
        if not isinstance(frame, pandas.DataFrame):
            raise ConfigError(
                f"VerticalTable takes a pandas DataFrame, not a {type(frame).__name__}; files are"
                " read by VerticalTable.read"
            )
        if missing not in ("error", "mean", "zero"):
            raise ConfigError(f"missing={missing!r}: give 'error', 'mean' or 'zero'")
        frame = frame.copy(deep=False)
        frame.columns = frame.columns.map(str)
        _must_differ(list(frame.columns))
        must_have(frame, [each for each in (id, label) if each is not None])
        self._positions = Positions(ids_in(frame.index if id is None else frame[id]), "the table")
        rest = [each for each in frame.columns if each not in (id, label)]
        self.columns = tuple(rest if columns is None else columns)
        must_have(frame, self.columns)
        if len(set(self.columns)) != len(self.columns) or {id, label} & set(self.columns):
            raise ColumnError("columns: name each feature once, and neither ids nor label")
        self.report = tuple(_report(frame[name]) for name in rest)
        if label is None:
            _warn_of_labels(self.columns)
        self._features = _numbers(frame, self.columns, self.report, missing)
        self._labels = None if label is None else _label_tensor(frame[label], label)

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        id: str,  # noqa: A002 - the field's own word
        columns: Sequence[str] | None = None,
        label: str | None = None,
        missing: Missing = "error",
    ) -> VerticalTable:
        """Read a table from a CSV or Parquet file; CSV ids keep their leading zeros.

        Args:
            path: ends in `.csv` (or `.csv.gz`) or `.parquet`.
            id: the column that holds the ids.
            columns: as in the constructor; other columns are not read from Parquet.
            label: as in the constructor.
            missing: as in the constructor.

        Raises:
            ConfigError: the file cannot be read.
            IdError, ColumnError: as in the constructor.
        """
        need_pandas()
        path = Path(path)
        wanted = None if columns is None else [id, *columns, *([label] if label else [])]
        try:
            if path.suffix.lower() == ".parquet":
                frame = _read_parquet(path, wanted)
            elif ".csv" in [each.lower() for each in path.suffixes]:
                frame = _read_csv(path, id)
            else:
                raise ConfigError(f"{path.name}: give a file that ends in .csv or .parquet")
        except (ConfigError, ColumnError):
            raise
        except ImportError:
            raise ConfigError("reading Parquet needs pyarrow: pip install pyarrow") from None
        except Exception as error:  # pandas and pyarrow raise many kinds
            raise ConfigError(f"{path} cannot be read ({type(error).__name__})") from error
        return cls(frame, id=id, columns=columns, label=label, missing=missing)

    @property
    def ids(self) -> list[str]:
        """Ids of all rows, in their order: what `load_local_ids` should return."""
        return self._positions.ids

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Sequence[str]) -> Tensor:
        """The features of some ids, in their order: [ids, columns] float32.

        Raises:
            MissingIdsError: some have no row.
        """
        return self._features[self._positions.of(ids)]

    def labels(self, ids: Sequence[str]) -> Tensor:
        """The labels of some ids, in their order: int64 of a column of integers or booleans, else
        float32.

        Raises:
            MissingIdsError: some have no row.
            ColumnError: the table has no label.
        """
        if self._labels is None:
            raise ColumnError("this table has no labels: give label=... where it is made")
        return self._labels[self._positions.of(ids)]

    def take(self, ids: Sequence[str]) -> Rows:
        """Features, labels and the ids beside them, in the order of `ids`.

        Raises:
            MissingIdsError: some have no row.
        """
        at = self._positions.of(ids)
        labels = None if self._labels is None else self._labels[at]
        return Rows(self._features[at], labels, [self.ids[row] for row in at])

    def batches(self, ids: Sequence[str], batch_size: int) -> Iterator[Rows]:
        """Batches of the rows of some ids, in their order; all ids are checked before the first.

        Args:
            ids: in the agreed order, such as `train_ids`.
            batch_size: rows of each batch but the last; the same at every party.

        Raises:
            MissingIdsError: some have no row.
        """
        return map(self.take, self._positions.chunks(ids, batch_size))

    def __repr__(self) -> str:
        labels = "" if self._labels is None else " and labels"
        return f"<VerticalTable of {len(self)} rows, {len(self.columns)} columns{labels}>"


def _read_parquet(path: Path, wanted: Sequence[str] | None) -> pd.DataFrame:
    from pyarrow import parquet

    _must_be_among(parquet.read_schema(path).names, wanted or ())
    frame: pd.DataFrame = need_pandas().read_parquet(path, columns=wanted)
    return frame


def _read_csv(path: Path, id_column: str) -> pd.DataFrame:
    """All columns of a CSV file; ids are what stands there, be it `007`, `NA` or `null`."""
    pandas = need_pandas()
    plain: dict[str, Any] = {"dtype": str, "keep_default_na": False}
    header = list(pandas.read_csv(path, header=None, nrows=1, **plain).iloc[0])
    _must_differ([name for name in header if name])  # pandas would number them
    _must_be_among(header, [id_column])
    frame: pd.DataFrame = pandas.read_csv(path, dtype={id_column: str})
    # By itself: where missing values are looked for, no dtype and no converter keeps an id "NA".
    ids = pandas.read_csv(path, usecols=[id_column], **plain)[id_column]
    return frame.assign(**{id_column: ids.where(ids != "")})


def need_pandas() -> Any:
    """The pandas module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ConfigError("tables need pandas: pip install pandas") from None
    return pandas


def must_have(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Check that a table has columns of these names.

    Raises:
        ColumnError: one is not there.
    """
    _must_be_among(list(frame.columns), names)


def _must_be_among(columns: Sequence[str], names: Sequence[str]) -> None:
    absent = [name for name in names if name not in columns]
    if absent:
        raise ColumnError(f"the table has no column {absent[0]!r}; it has {list(columns)}")


def _must_differ(columns: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if twice:
        raise ColumnError(f"the table has more than one column {twice[0]!r}; rename one")


def ids_in(series: pd.Series[Any] | pd.Index[Any]) -> list[object]:
    """Ids as strings, where that is free of doubt.

    Raises:
        IdError: some are missing, or they are booleans or fractions.
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
    return [str(each) if isinstance(each, int) else each for each in series.tolist()]


def _report(column: pd.Series[Any]) -> ColumnReport:
    types = need_pandas().api.types
    numeric = types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype)
    return ColumnReport(str(column.name), str(column.dtype), int(column.isna().sum()), numeric)


def _warn_of_labels(columns: Sequence[str]) -> None:
    suspects = [name for name in columns if _LABEL_LIKE.fullmatch(name)]
    if suspects:
        logger.warning(
            "columns %s look like labels and are used as features: leave them out of columns=..."
            " at a Collaborator, or at the Host give label=...",
            suspects,
        )


def _numbers(
    frame: pd.DataFrame, columns: Sequence[str], report: Sequence[ColumnReport], missing: Missing
) -> Tensor:
    """Features as one float32 matrix, row-major."""
    used = [each for each in report if each.name in columns]
    if not used:
        raise ColumnError("the table has no feature; give it columns beside ids and label")
    words = [str(each) for each in used if not each.numeric]
    if words:
        raise ColumnError(
            f"features must be numbers ({'; '.join(words)}): encode such columns"
            " (pandas.get_dummies) or leave them out of columns=..."
        )
    holes = [str(each) for each in used if each.missing]
    if holes and missing == "error":
        raise ColumnError(
            f"missing values ({'; '.join(holes)}): give missing='mean' or missing='zero', or drop"
            " those rows"
        )
    matrix = frame[list(columns)].to_numpy(dtype=np.float64, na_value=np.nan)
    if holes:
        empty = np.isnan(matrix)
        kept = np.where(empty, 0.0, matrix)
        means = kept.sum(axis=0) / np.maximum((~empty).sum(axis=0), 1)
        matrix = np.where(empty, means if missing == "mean" else 0.0, matrix)
    with np.errstate(over="ignore"):
        tensor = torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))
    wild = ~torch.isfinite(tensor).all(dim=0)
    if wild.any():
        name = columns[int(wild.nonzero()[0])]
        raise ColumnError(f"column {name!r} holds infinity or numbers beyond float32; mend it")
    return tensor


def _label_tensor(column: pd.Series[Any], name: str) -> Tensor:
    types = need_pandas().api.types
    if column.isna().any():
        raise ColumnError(
            f"label {name!r} is missing in {int(column.isna().sum())} rows; drop them"
        )
    if not types.is_numeric_dtype(column.dtype):
        raise ColumnError(
            f"label {name!r} is {column.dtype}, not a number; encode it (pandas.factorize)"
        )
    whole = types.is_integer_dtype(column.dtype) or types.is_bool_dtype(column.dtype)
    values = column.to_numpy(dtype=np.int64 if whole else np.float32)
    return torch.from_numpy(np.array(values))
