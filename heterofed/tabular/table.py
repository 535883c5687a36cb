"""One party's table in a task: its ids, its rows as tensors, its labels and weights.

Rows are read and prepared once, when it is known which ones are needed; a batch is then a choice of
rows of tensors. Nothing here knows of other parties.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from heterofed.errors import ColumnError, ConfigError, MissingIdsError
from heterofed.tabular.inspect import inspect
from heterofed.tabular.kinds import Column
from heterofed.tabular.prepare import Inputs, Preparation, Step, choose
from heterofed.tabular.sources import Source, open_source

if TYPE_CHECKING:
    from heterofed.tabular.models.half import Model

Location = str | os.PathLike[str] | pd.DataFrame | Source


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one batch: as the model reads them (None without features), where they stand among
    the prepared ones, and their ids.
    """

    inputs: Inputs | None
    rows: Tensor
    ids: list[str]


class LocalTable:
    """One party's table.

    Args:
        location: a path, the address of a database, a DataFrame or a `Source`.
        ids: the columns that hold the ids.
        label: columns of the label; a Collaborator has none.
        weight: the column of sample weights.
        split_by: the column by which rows are split, where it is a group or a time.
        columns: the features; None: all other columns.
        prepare: steps, not fitted; None: those that suit the columns.

    Raises:
        ColumnError: a column is not there, or named twice.
        ConfigError: the table cannot be read.
    """

    def __init__(
        self,
        location: Location,
        *,
        ids: str | Sequence[str],
        label: str | Sequence[str] = (),
        weight: str | None = None,
        split_by: str | None = None,
        columns: Sequence[str] | None = None,
        prepare: Sequence[Step] | None = None,
    ) -> None:
        self.source = location if isinstance(location, Source) else open_source(location)
        self.id_columns, self.label_columns = _names(ids), _names(label)
        self.weight_column, self.split_column = weight, split_by
        self._columns, self._steps = columns, prepare
        self._beside = [*self.id_columns, *self.label_columns, *_names(weight or ())]
        self.source.must_have([*self._beside, *_names(split_by or ())])
        self._ids: pd.Index[Any] | None = None
        self._found: list[Column] | None = None
        self._rows: pd.Index[Any] = pd.Index([], dtype="object")
        self._inputs: Inputs | None = None

    # -- ids -------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """The id of every row, in their order.

        Raises:
            ColumnError: a row has none.
        """
        if self._ids is None:
            frame = self.source.as_written().frame(self.id_columns)
            column = frame[self.id_columns[0]]
            if column.isna().any():
                at = int(column.isna().to_numpy().argmax())
                raise ColumnError(
                    f"{self.source.name}, row {at + 1}: there is no id in column"
                    f" {self.id_columns[0]!r}; drop the row, or give it one"
                )
            self._ids = pd.Index(column.astype(str).str.strip(), dtype="object")
        return self._ids.tolist()

    def positions(self, ids: Sequence[str]) -> Any:
        """Where some ids stand in the table, in their order.

        Raises:
            MissingIdsError: some have no row.
        """
        self.ids()
        return _found(self._ids, ids, self.source.name)

    # -- features --------------------------------------------------------------------------

    @property
    def columns(self) -> list[Column]:
        """The columns of the features, and what they hold.

        Raises:
            ColumnError: a column that was named is not there.
        """
        if self._found is None:
            found = {k: v for k, v in self._all_columns.items() if k not in self._beside}
            if self._columns is not None:
                self.source.must_have(self._columns)
                if mixed := [name for name in self._columns if name not in found]:
                    raise ColumnError(f"columns: {mixed[0]!r} holds ids, the label or weights")
                found = {name: found[name] for name in self._columns}
            self._found = list(found.values())
        return self._found

    @functools.cached_property
    def _all_columns(self) -> dict[str, Column]:
        """What every column of the table holds."""
        label = self.label_columns[0] if len(self.label_columns) == 1 else None
        report = inspect(self.source, ids=self.id_columns, label=label)
        return {
            each.name: Column(name=each.name, kind=each.kind, format=each.format)
            for each in report.columns
        }

    @property
    def has_features(self) -> bool:
        """Whether a column is left to learn from."""
        return any(each.kind not in ("constant", "id") for each in self.columns)

    def fit(self, train_ids: Sequence[str], model: Model) -> Preparation:
        """Fit the steps on the train rows, and on nothing else."""
        steps = self._steps
        if steps is None:
            steps = choose(self.columns, linear=model == "logistic")
        frame = self.source.typed(self.columns).take(self.positions(train_ids))
        return Preparation.fit(frame, self.columns, steps)

    def load(self, ids: Sequence[str], preparation: Preparation | None) -> None:
        """Prepare the rows that batches will be of.

        Args:
            ids: of these rows.
            preparation: fitted; None where this party has no features.

        Raises:
            MissingIdsError: some have no row.
            ColumnError: the table has other columns than those of the training, or other values.
        """
        positions = self.positions(ids)
        self._rows = pd.Index(list(ids), dtype="object")
        self._inputs = None
        if preparation is not None:
            self.source.must_have(preparation.names)
            frame = self.source.typed(preparation.columns).take(positions)
            self._inputs = preparation.apply(frame)

    def batches(self, ids: Sequence[str], size: int) -> Iterator[Batch]:
        """Batches of rows that are loaded, in the order of `ids`; the last may be smaller."""
        rows = torch.as_tensor(_found(self._rows, ids, self.source.name))
        for start in range(0, len(ids), size):
            some = rows[start : start + size]
            inputs = None if self._inputs is None else self._inputs.take(some)
            yield Batch(inputs, some, list(ids[start : start + size]))

    def columns_of(self, preparation: Preparation) -> list[str]:
        """Those columns of this table that a half was trained on, in the order of this table."""
        return [name for name in self.source.columns if name in set(preparation.names)]

    # -- labels ----------------------------------------------------------------------------

    def labels(self, ids: Sequence[str]) -> Any:
        """The label of each of some ids, as it lies: a Series, or a DataFrame of several.

        Raises:
            MissingIdsError: some have no row.
        """
        frame = self.source.take(self.positions(ids), self.label_columns)
        return frame[self.label_columns[0]] if len(self.label_columns) == 1 else frame

    def all_labels(self) -> Any:
        """The label of every row."""
        frame = self.source.frame(self.label_columns)
        return frame[self.label_columns[0]] if len(self.label_columns) == 1 else frame

    def split_values(self, ids: Sequence[str]) -> Any:
        """What the rows of some ids are split by: a group, a time, or else their label."""
        if self.split_column is None:
            return self.labels(ids)
        column = self._all_columns[self.split_column]
        return self.source.typed([column]).take(self.positions(ids))[self.split_column]

    def weights(self, ids: Sequence[str]) -> Any:
        """The weight of each of some ids, as it lies; None where there is no such column."""
        if self.weight_column is None:
            return None
        frame = self.source.take(self.positions(ids), [self.weight_column])
        return frame[self.weight_column]


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _found(index: Any, ids: Sequence[str], name: str) -> Any:
    if index is None or not index.is_unique:
        raise ConfigError(f"{name}: ids stand in more than one row; keep one row of each")
    found = index.get_indexer(pd.Index(list(ids), dtype="object"))
    if (found < 0).any():
        count = int((found < 0).sum())
        raise MissingIdsError(
            f"{name} has no row for {count} of {len(ids)} ids", numbers=(count, len(ids))
        )
    return found
