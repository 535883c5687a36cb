"""Reads one party's table in a task: its ids, its rows as tensors, its labels and weights.

Rows are read and prepared once, when it is known which ones are needed. A batch is then a selection
of rows of tensors, or of records in a file if the table does not fit into memory. This module knows
nothing of other parties.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from pandas.api.types import union_categoricals
from torch import Tensor

from heterofed.data.places import Places
from heterofed.errors import ColumnError, ConfigError, MissingIdsError
from heterofed.tabular.ids import Duplicates, IdRecipe, joining_note
from heterofed.tabular.inspect import TableReport, inspect
from heterofed.tabular.kinds import Column
from heterofed.tabular.prepare import WOE, Inputs, Preparation, Step, choose
from heterofed.tabular.prepared import PreparedRows, prepared
from heterofed.tabular.sources import Source, open_source
from heterofed.tabular.table_rows import TableRows, rows_by_id

if TYPE_CHECKING:
    from heterofed.tabular.models.half import Model

logger = logging.getLogger("heterofed")

Location = str | os.PathLike[str] | pd.DataFrame | Source

Known = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]
"""The labels 0 and 1 of some rows, and their weights if there are any."""

FITTED_CELLS = 5_000_000
"""The most cells of train rows of a large table on which steps are fitted; every k-th row is
taken.
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one batch: their inputs (None without features), positions among the prepared
    rows, and ids.
    """

    inputs: Inputs | None
    rows: Tensor
    ids: list[str]


class LocalTable:
    """One party's table.

    Args:
        location: a path, the address of a database, a DataFrame or a `Source`.
        ids: the columns that hold the ids.
        id_recipe: how this party reads its ids; None for the recipe that the Host announces.
        duplicates: what to do if several rows have the same id.
        label: the columns of the label; a Collaborator has none.
        weight: the column of sample weights.
        split_by: the column by which rows are split, if it is a group or a time.
        columns: the columns of the features; None for all other columns.
        prepare: the steps, not fitted; None for steps that suit the columns.

    Raises:
        ColumnError: a column does not exist, or is named twice.
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
        self._ids: TableRows
        self._told: set[str] = set()
        self._asked: tuple[str, bool] | None = None
        self._found: list[Column] | None = None
        self._places: Places | None = Places([])
        self._inputs: Inputs | PreparedRows | None = None
        self._beside_features: dict[str, pd.Series[Any]] = {}

    # -- ids -------------------------------------------------------------------------------

    def check(self) -> None:
        """Check the whole table before the parties connect.

        Raises:
            ColumnError: a column cannot be used as it is, or none is left to learn from.
            IdError: the ids cannot be used.
        """
        used = {*self.label_columns, *(each.name for each in self.columns)}
        for each in self._report.columns:
            if each.problem and each.name in used:
                raise ColumnError(each.problem)
        if not self.label_columns and not self.has_features:
            raise ColumnError(f"{self.source.name} has no column to learn from beside its ids")
        if self.own_recipe is not None or len(self.id_columns) == 1 or self.label_columns:
            self.read_ids(self.own_recipe)  # the Host says whether several are keys

    def read_ids(self, recipe: IdRecipe | None, *, offer_repeats: bool = False) -> Iterable[str]:
        """Return the id of every row by the first key, in the form of the recipe; None stands for
        text. Those of a large table are read again whenever they are needed.

        Raises:
            ConfigError: the recipe does not fit the columns of the ids or this party's own recipe.
            IdError: ids are missing, are not of the recipe's type, or repeat.
        """
        recipe = recipe or IdRecipe.of_columns(len(self.id_columns))
        asked = (str(recipe.read_as(self.own_recipe)), offer_repeats)
        if asked != self._asked:
            self._ids = rows_by_id(
                self.source,
                self.id_columns,
                recipe.read_as(self.own_recipe),
                duplicates=self._duplicates,
                offer_repeats=offer_repeats,
            )
            self._asked = asked
        return self._ids.ids()

    def ids_in_parts(self, size: int) -> tuple[int, Iterator[list[str]]]:
        """Return the number of the ids that were read last by the first key, and the ids in parts
        of `size`, in the order of their rows. Those of a large table are read again.
        """
        stream = iter(self._ids)
        return len(self._ids), iter(lambda: list(itertools.islice(stream, size)), [])

    def further_ids(self, common: Sequence[str] | set[str], key: int) -> list[str]:
        """Return the ids by a further key (from 1) of the rows that no common id stands for."""
        return self._ids.further(common, key)

    def tell_doubts(self) -> None:
        """Log doubts about the ids that were read, one line each, and each line once."""
        alone = self.own_recipe is None and len(self.id_columns) > 1 and self.label_columns
        joined = [joining_note(len(self.id_columns))] if alone else []
        for note in (*joined, *self._ids.notes):
            if note not in self._told:
                self._told.add(note)
                logger.warning("ids: %s", note)

    @property
    def better_recipe(self) -> IdRecipe | None:
        """A recipe that suits the ids that were read last better; None if there is none."""
        return self._ids.better

    def positions(self, ids: Sequence[str]) -> Any:
        """Return the positions of the rows of some ids in the table, in their order.

        Raises:
            MissingIdsError: some ids have no row.
        """
        return self._ids.positions(ids)

    # -- features --------------------------------------------------------------------------

    @property
    def columns(self) -> list[Column]:
        """The columns of the features, with their kinds.

        Raises:
            ColumnError: a column that was named does not exist.
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
        """The descriptions of all columns of the table."""
        return inspect(self.source, ids=self.id_columns, label=self.label_columns)

    def _column(self, name: str) -> Column:
        found = self._report[name]
        return Column(name=name, kind=found.kind, format=found.format)

    @property
    def has_features(self) -> bool:
        """Whether a column is left to learn from."""
        return any(each.kind not in ("constant", "id") for each in self.columns)

    def check_steps(self, *, has_classes: bool) -> None:
        """Check that this party has the labels with which the steps are fitted.

        Args:
            has_classes: whether it has labels of two classes.

        Raises:
            ConfigError: a step needs such labels.
        """
        if self._needs_labels and not has_classes:
            raise ConfigError(
                "prepare: WOE is fitted by labels of two classes, and this party has none: leave"
                " it out here, or see the guide to scorecards for weights of evidence by labels"
                " that the Host has turned at random"
            )

    @property
    def _needs_labels(self) -> bool:
        return any(isinstance(step, WOE) for step in self._steps or ())

    def fit(
        self,
        train_ids: Sequence[str],
        model: Model,
        known: Callable[[Sequence[str]], Known | None] | None = None,
    ) -> Preparation:
        """Fit the steps on the train rows only; on every k-th of them if the table is large.

        Args:
            train_ids: the ids of the train rows.
            model: the kind of model that reads them.
            known: returns labels of some ids, for steps that need them; None if there are none.
        """
        steps = self._steps
        if steps is None:
            steps = choose(self.columns, linear=model == "logistic")
        typed = self.source.typed(self.columns)
        if typed.is_large:
            step = -(-len(train_ids) * len(self.columns) // FITTED_CELLS)
            train_ids = train_ids[:: max(1, step)]
            positions = self.positions(train_ids)
            order = np.argsort(positions)
            train_ids = [train_ids[at] for at in order.tolist()]
            frame = pd.concat(typed.among(positions))
        else:
            frame = typed.take(self.positions(train_ids))
        found = known(train_ids) if known is not None and self._needs_labels else None
        labels, weights = found or (None, None)
        return Preparation.fit(frame, self.columns, steps, labels=labels, weights=weights)

    def load(self, ids: Sequence[str], preparation: Preparation | None) -> None:
        """Prepare the rows of which batches will be made.

        Args:
            ids: the ids of these rows.
            preparation: the fitted preparation; None if this party has no features.

        Raises:
            MissingIdsError: some ids have no row.
            ColumnError: the table has other columns than those of the training, or other values.
        """
        self._places = Places(ids)
        self._prepare(self.positions(ids), preparation)

    def load_all(self, preparation: Preparation | None) -> None:
        """Prepare all rows, which are found by the ids that were read, without a list of them.

        Raises:
            ColumnError: see `load`.
        """
        self._places = None
        self._prepare(np.arange(self.source.rows), preparation)

    def _prepare(self, positions: Any, preparation: Preparation | None) -> None:
        self._inputs = None
        if preparation is not None:
            self.source.must_have(preparation.names)
            typed = self.source.typed(preparation.columns)
            self._inputs = prepared(typed, positions, preparation)

    def batches(self, ids: Sequence[str], size: int) -> Iterator[Batch]:
        """Yield batches of rows that are loaded, in the order of `ids`; the last may be smaller."""
        for start in range(0, len(ids), size):
            some = list(ids[start : start + size])
            rows = torch.from_numpy(self._loaded(some))
            yield Batch(None if self._inputs is None else self._inputs.take(rows), rows, some)

    def _loaded(self, ids: Sequence[str]) -> Any:
        """Return the positions of ids among the loaded rows."""
        if self._places is None:
            return self.positions(ids)
        found = self._places.of(ids)
        if absent := int((found < 0).sum()):
            raise MissingIdsError(
                f"{self.source.name} has no row for {absent} of {len(ids)} ids",
                numbers=(absent, len(ids)),
            )
        return found

    def columns_of(self, preparation: Preparation) -> list[str]:
        """Return the columns of this table on which a half was trained, in the order of this
        table.
        """
        return [name for name in self.source.columns if name in set(preparation.names)]

    # -- labels ----------------------------------------------------------------------------

    def labels(self, ids: Sequence[str]) -> Any:
        """Return the original label of each of some ids: a Series, or a DataFrame of several
        labels.

        Raises:
            MissingIdsError: some ids have no row.
        """
        return self.all_labels().iloc[self.positions(ids)]

    def all_labels(self) -> Any:
        """Return the label of every row."""
        columns = {name: self._values(name) for name in self.label_columns}
        return next(iter(columns.values())) if len(columns) == 1 else pd.DataFrame(columns)

    def split_values(self, ids: Sequence[str]) -> Any:
        """Return the values by which the rows of some ids are split: groups, times, or else
        labels.
        """
        if self.split_column is None:
            return self.labels(ids)
        column = self._column(self.split_column)
        return self.source.typed([column]).take(self.positions(ids))[self.split_column]

    def weights(self, ids: Sequence[str]) -> Any:
        """Return the original weight of each of some ids; None if there is no such column."""
        if self.weight_column is None:
            return None
        return self._values(self.weight_column).iloc[self.positions(ids)]

    def _values(self, name: str) -> pd.Series[Any]:
        """Return the cells of a column that is no feature, for all rows; they are kept from then
        on.
        """
        if name not in self._beside_features:
            source = self.source
            if not source.is_large:
                found = source.frame([name])[name]
            elif self._report[name].kind == "numeric":
                found = source.typed([self._column(name)]).frame()[name]
            else:  # each different word is held once
                parts = [part[name].astype("category") for part in source.chunks(columns=[name])]
                found = pd.Series(union_categoricals(parts), name=name)
            self._beside_features[name] = found
        return self._beside_features[name]


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
