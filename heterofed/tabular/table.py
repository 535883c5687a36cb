"""One party's table in a task: its ids, its rows as tensors, its labels and weights.

Rows are read and prepared once, when it is known which ones are needed; a batch is then a choice of
rows of tensors. Nothing here knows of other parties.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from heterofed.errors import ColumnError, MissingIdsError
from heterofed.tabular.ids import Duplicates, IdRecipe, RowKeys
from heterofed.tabular.inspect import TableReport, inspect
from heterofed.tabular.kinds import Column
from heterofed.tabular.prepare import Inputs, Preparation, Step, choose
from heterofed.tabular.sources import Source, open_source

if TYPE_CHECKING:
    from heterofed.tabular.models.half import Model

logger = logging.getLogger("heterofed")

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
        id_recipe: how this party reads its ids; None: as the Host announces.
        duplicates: what to do where an id stands in several rows.
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
        id_recipe: IdRecipe | str | None = None,
        duplicates: Duplicates = "error",
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
        self.own_recipe = IdRecipe.parse(id_recipe) if isinstance(id_recipe, str) else id_recipe
        self._duplicates: Duplicates = duplicates
        self._ids: RowKeys
        self._told: set[str] = set()
        self._asked: tuple[str, bool] | None = None
        self._found: list[Column] | None = None
        self._rows: pd.Index[Any] = pd.Index([], dtype="object")
        self._inputs: Inputs | None = None

    # -- ids -------------------------------------------------------------------------------

    def check(self) -> None:
        """Look at all of the table before anybody is met.

        Raises:
            ColumnError: a column cannot be used as it is, or none is left to learn from.
            IdError: the ids cannot be.
        """
        used = {*self.label_columns, *(each.name for each in self.columns)}
        for each in self._report.columns:
            if each.problem and each.name in used:
                raise ColumnError(each.problem)
        if not self.label_columns and not self.has_features:
            raise ColumnError(f"{self.source.name} has no column to learn from beside its ids")
        if self.own_recipe is not None or len(self.id_columns) == 1 or self.label_columns:
            self.read_ids(self.own_recipe)  # of several columns the Host says whether they are keys

    def read_ids(self, recipe: IdRecipe | None, *, offer_repeats: bool = False) -> list[str]:
        """The id of every row by the first key, as the recipe writes it; None: as text.

        Raises:
            ConfigError: the recipe does not go with the columns of the ids, or with this party's
                own recipe.
            IdError: ids are missing, not of the recipe's type, or stand in several rows.
        """
        recipe = recipe or IdRecipe.of_columns(len(self.id_columns))
        asked = (str(recipe.read_as(self.own_recipe)), offer_repeats)
        if asked != self._asked:
            self._ids = RowKeys.read(
                self.source,
                self.id_columns,
                recipe.read_as(self.own_recipe),
                duplicates=self._duplicates,
                offer_repeats=offer_repeats,
            )
            self._asked = asked
        return self._ids.ids()

    def further_ids(self, common: Sequence[str] | set[str], key: int) -> list[str]:
        """The ids by a further key (from 1) of the rows that no common id stands for."""
        return self._ids.further(common, key)

    def tell_doubts(self) -> None:
        """Log what looks wrong with the ids that were read, one line each, and each once."""
        for note in self._ids.notes:
            if note not in self._told:
                self._told.add(note)
                logger.warning("ids: %s", note)

    def positions(self, ids: Sequence[str]) -> Any:
        """Where the rows of some ids stand in the table, in their order.

        Raises:
            MissingIdsError: some have no row.
        """
        return self._ids.positions(ids)

    # -- features --------------------------------------------------------------------------

    @property
    def columns(self) -> list[Column]:
        """The columns of the features, and what they hold.

        Raises:
            ColumnError: a column that was named is not there.
        """
        if self._found is None:
            names = [name for name in self.source.columns if name not in self._beside]
            if self._columns is not None:
                self.source.must_have(self._columns)
                if mixed := [name for name in self._columns if name not in names]:
                    raise ColumnError(f"columns: {mixed[0]!r} holds ids, the label or weights")
                names = list(self._columns)
            self._found = [self._column(name) for name in names]
        return self._found

    @functools.cached_property
    def _report(self) -> TableReport:
        """What every column of the table holds."""
        return inspect(self.source, ids=self.id_columns, label=self.label_columns)

    def _column(self, name: str) -> Column:
        found = self._report[name]
        return Column(name=name, kind=found.kind, format=found.format)

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
        rows = torch.as_tensor(self._rows.get_indexer(pd.Index(list(ids), dtype="object")))
        if absent := int((rows < 0).sum()):
            raise MissingIdsError(
                f"{self.source.name} has no row for {absent} of {len(ids)} ids",
                numbers=(absent, len(ids)),
            )
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
        column = self._column(self.split_column)
        return self.source.typed([column]).take(self.positions(ids))[self.split_column]

    def weights(self, ids: Sequence[str]) -> Any:
        """The weight of each of some ids, as it lies; None where there is no such column."""
        if self.weight_column is None:
            return None
        frame = self.source.take(self.positions(ids), [self.weight_column])
        return frame[self.weight_column]


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
