"""A party's table: it is checked when it is made, and read by id as float32 tensors."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from heterofed.data.frames import ids_in, must_differ, must_have, need_pandas, read_frame
from heterofed.data.ids import Positions
from heterofed.data.indexed import Rows
from heterofed.data.numbers import could_be, exact_features, exact_labels, kind_of
from heterofed.data.signature import current_reader
from heterofed.errors import ColumnError, ConfigError
from heterofed.reporting.tracebacks import plain_endings

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("heterofed")

Missing = Literal["error", "mean", "zero"]

_LABEL_LIKE = re.compile(
    r"y(_true)?|is_\w+|class(es)?|diagnos[ei]s|ground_?truth|response|survived"
    # These also match as the first or last of several words: label_1, credit_default, isFraud.
    r"|(\w+[_. ]|is)?(labels?|targets?|outcomes?|default(ed)?|churn(ed)?|fraud)([_. ].+)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ColumnReport:
    """The properties of a column.

    Attributes:
        name: the name of the column.
        dtype: its dtype in pandas.
        missing: the number of missing values.
        numeric: whether the column can be a feature.
    """

    name: str
    dtype: str
    missing: int
    numeric: bool

    def __str__(self) -> str:
        """Return one line of text about the column."""
        kind = "" if self.numeric else ", not numeric"
        return f"{self.name}: {self.dtype}, {self.missing} missing{kind}"


class VerticalTable:
    """A party's rows, found by id.

    Args:
        frame: a pandas DataFrame with unique ids.
        id: the column that holds the ids, or None for the index. Whole numbers become strings.
        columns: the feature columns in order, or None for every column but ids and label.
        label: the column of labels, which only the Host has.
        missing: how to treat missing values in features: "error" to refuse them, or "mean" or
            "zero" to replace them by the mean of the column or by zero. Means are taken over this
            party's train rows when a hook first reads the table in a round, and they are kept with
            the model, so that predictions replace missing values as training did. To read rows
            outside of hooks, call `fit` first.

    Attributes:
        columns: the names of the feature columns.
        dtypes: the dtypes of these columns in the frame.
        missing: the argument `missing`.
        report: a `ColumnReport` of every column.

    Raises:
        IdError: ids are missing, repeated or fractions.
        ColumnError: a column does not exist, is not numeric, or has missing values; or it has
            numbers that float32 cannot hold: infinity, whole numbers (such as times in
            nanoseconds) that would change, or numbers that would become zero.
        ConfigError: pandas is not installed, or `frame` is not a DataFrame.
    """

    @plain_endings()
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
                f"VerticalTable takes a pandas DataFrame, not a {type(frame).__name__}; read"
                " files by VerticalTable.read"
            )
        if missing not in ("error", "mean", "zero"):
            raise ConfigError(f"missing={missing!r}: give 'error', 'mean' or 'zero'")
        frame = frame.copy(deep=False)
        frame.columns = frame.columns.map(str)
        id, label = (None if each is None else str(each) for each in (id, label))  # noqa: A001
        must_differ(list(frame.columns))
        must_have(frame, [each for each in (id, label) if each is not None])
        self._positions = Positions(ids_in(frame.index if id is None else frame[id]), "the table")
        rest = [each for each in frame.columns if each not in (id, label)]
        self.columns = tuple(rest if columns is None else map(str, columns))
        must_have(frame, self.columns)
        if len(set(self.columns)) != len(self.columns) or {id, label} & set(self.columns):
            raise ColumnError("columns: name each feature once, and neither ids nor label")
        self.missing = missing
        self.dtypes = tuple(str(frame[name].dtype) for name in self.columns)
        self.report = tuple(_report(frame[name]) for name in rest)
        if label is None:
            _warn_of_labels(self.columns)
        self._features = _numbers(frame, self.columns, self.report, missing)
        self._labels = None if label is None else _label_tensor(frame[label], label)
        self._means: list[float] | None = None

    @classmethod
    @plain_endings()
    def read(
        cls,
        path: str | Path,
        *,
        id: str,  # noqa: A002 - the field's own word
        columns: Sequence[str] | None = None,
        label: str | None = None,
        missing: Missing = "error",
        encoding: str = "utf-8",
    ) -> VerticalTable:
        """Read a table from a CSV or Parquet file. Ids of a CSV file keep their leading zeros.

        Args:
            path: the path of a file whose name ends in `.csv`, `.csv.gz` or `.parquet`.
            id: the column that holds the ids.
            columns: as in the constructor. Other columns of a Parquet file are not read.
            label: as in the constructor.
            missing: as in the constructor.
            encoding: the text encoding of a CSV file, such as "gbk" or "latin-1".

        Raises:
            ConfigError: the file cannot be read, or a row has more fields than the header.
            IdError, ColumnError: as in the constructor.
        """
        wanted = None if columns is None else [id, *columns, *([label] if label else [])]
        frame = read_frame(Path(path), id, wanted, encoding)
        return cls(frame, id=id, columns=columns, label=label, missing=missing)

    @property
    def ids(self) -> list[str]:
        """The ids of all rows in order, which `load_local_ids` should return."""
        return self._positions.ids

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Sequence[str]) -> Tensor:
        """Return the features of `ids` as a float32 tensor [ids, columns], in the order of `ids`.

        Raises:
            MissingIdsError: some ids have no row.
            ColumnError: the model was trained on another table, or the means that replace missing
                values are not known yet.
        """
        return self._filled(self._positions.of(ids))

    def labels(self, ids: Sequence[str]) -> Tensor:
        """Return the labels of `ids`, in the order of `ids`.

        Returns:
            An int64 tensor if the column holds integers or booleans, else a float32 tensor.

        Raises:
            MissingIdsError: some ids have no row.
            ColumnError: the table has no label.
        """
        if self._labels is None:
            raise ColumnError("this table has no labels: make it with label=...")
        return self._labels[self._positions.of(ids)]

    def take(self, ids: Sequence[str]) -> Rows:
        """Return the features, labels and ids of the rows of `ids`, in the order of `ids`.

        Raises:
            MissingIdsError: some ids have no row.
            ColumnError: as in `rows`.
        """
        at = self._positions.of(ids)
        labels = None if self._labels is None else self._labels[at]
        return Rows(self._filled(at), labels, [self.ids[row] for row in at])

    def batches(self, ids: Sequence[str], batch_size: int) -> Iterator[Rows]:
        """Yield the rows of `ids` in batches, in the order of `ids`.

        All ids are checked before the first batch.

        Args:
            ids: ids in the agreed order, such as `train_ids`.
            batch_size: the number of rows in each batch but the last; it must be the same at every
                party.

        Raises:
            MissingIdsError: some ids have no row.
        """
        return map(self.take, self._positions.chunks(ids, batch_size))

    def fit(self, ids: Sequence[str]) -> None:
        """Compute the means that replace missing values when rows are read outside of hooks.

        Inside hooks the means of the model are used.

        Args:
            ids: the ids of the rows, such as `train_ids`; ids without a row are skipped.

        Raises:
            ColumnError: a column has no value in these rows.
        """
        self._means = self.means_of(ids)

    def means_of(self, ids: Sequence[str]) -> list[float]:
        """Return the mean of each column over the rows of `ids`; ids without a row are skipped.

        Raises:
            ColumnError: a column has no value in these rows.
        """
        at = self._positions.known(ids)
        rows = self._features[at].double()
        if not at or bool((empty := rows.isnan().all(dim=0)).any()):
            names = (
                [name for name, none in zip(self.columns, empty, strict=True) if none] if at else ()
            )
            what = (
                f"columns {', '.join(map(repr, names))} have no value" if at else "there is no row"
            )
            raise ColumnError(
                f"missing='mean': {what} among the {len(at)} train rows of this table; leave such"
                " columns out of columns=..., or call table.fit(ids) if the train ids are not ids"
                " of the table"
            )
        return rows.nanmean(dim=0).tolist()

    def is_like(self, dtypes: Sequence[str]) -> list[bool]:
        """Return for each column whether its values could have the given dtype."""
        return [
            could_be(self._features[:, at].numpy(), kind_of(mine), kind_of(other))
            for at, (mine, other) in enumerate(zip(self.dtypes, dtypes, strict=True))
        ]

    def _filled(self, at: Sequence[int]) -> Tensor:
        """Return rows without missing values; inside hooks, the model's means replace them."""
        reader, means = current_reader(), self._means
        if reader is not None:
            kept = reader.means(self)
            means = means if kept is None else kept
        rows = self._features[at]
        if self.missing != "mean":
            return rows
        if means is None:
            raise ColumnError(
                "missing='mean' needs the means of the train rows, which are not known here: read"
                " rows in the feature hooks, or call table.fit(ids) first"
            )
        return torch.where(rows.isnan(), torch.tensor(means, dtype=rows.dtype), rows)

    def __repr__(self) -> str:
        labels = "" if self._labels is None else " and labels"
        return f"<VerticalTable of {len(self)} rows, {len(self.columns)} columns{labels}>"


def _report(column: pd.Series[Any]) -> ColumnReport:
    types = need_pandas().api.types
    missing = int(column.isna().sum())
    numeric = types.is_bool_dtype(column.dtype) or (
        types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype)
    )
    # pandas cannot know the dtype of a column without any value, as in a table of one row.
    empty = missing == len(column) and str(column.dtype) in ("object", "str", "string")
    return ColumnReport(str(column.name), str(column.dtype), missing, numeric or empty)


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
    """Return the features as one row-major float32 matrix."""
    used = [each for each in report if each.name in columns]
    if not used:
        raise ColumnError("the table has no feature column; give it columns besides ids and label")
    words = [str(each) for each in used if not each.numeric]
    if words:
        raise ColumnError(
            f"features must be numbers ({'; '.join(words)}): encode such columns"
            " (pandas.get_dummies; pandas.to_numeric for numbers that were read as text) or leave"
            " them out of columns=..."
        )
    holes = [str(each) for each in used if each.missing]
    if holes and missing == "error":
        raise ColumnError(
            f"missing values ({'; '.join(holes)}): give missing='mean' or missing='zero', or drop"
            " those rows"
        )
    empty = [each.name for each in used if each.missing == len(frame)]
    if empty and missing == "zero" and len(frame) > 1:
        logger.warning("columns %s hold no value at all; they are replaced by zeros", empty)
    filled = 0.0 if missing == "zero" else np.nan
    return torch.from_numpy(
        np.stack([exact_features(frame[name], name, filled) for name in columns], axis=1)
    )


def _label_tensor(column: pd.Series[Any], name: str) -> Tensor:
    if column.isna().any():
        raise ColumnError(
            f"label {name!r} is missing in {int(column.isna().sum())} rows; drop them"
        )
    if not need_pandas().api.types.is_numeric_dtype(column.dtype):
        raise ColumnError(
            f"label {name!r} is {column.dtype}, not a number; encode it (pandas.factorize)"
        )
    return torch.from_numpy(exact_labels(column, name))
