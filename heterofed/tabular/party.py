"""Implements what both roles of a tabular task share: ids, split, half, and batches of each
phase.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer

from heterofed.compute.packed_ids import PackedIds, Positions, packed
from heterofed.errors import ConfigError
from heterofed.intersection.keys import nobody
from heterofed.reporting.task_result import TaskResult
from heterofed.tabular.ids import IdRecipe, overlap_advice
from heterofed.tabular.ids.advice import SMALL_SHARE
from heterofed.tabular.ids.asked import as_matched
from heterofed.tabular.importance import permuted
from heterofed.tabular.models import Half, HalfPlan, Top, make_optimizer
from heterofed.tabular.prepare import Inputs
from heterofed.tabular.schedule import factor, set_rate
from heterofed.tabular.settings import Settings
from heterofed.tabular.sources import open_source
from heterofed.tabular.splits import Parts
from heterofed.tabular.table import Batch, Known, LocalTable

logger = logging.getLogger("heterofed")

M = TypeVar("M", Half, Top)


class Run(Protocol):
    """The public attributes of a scheduler that this module uses."""

    @property
    def feature_key(self) -> str:
        """The feature key of this party."""

    @property
    def result(self) -> TaskResult:
        """The result of the run so far."""

    @property
    def id_keys(self) -> int:
        """The number of keys by which rows are matched."""

    @property
    def agreed(self) -> dict[str, str]:
        """The settings that the Host announced."""

    @property
    def split_ids(self) -> tuple[Sequence[str], Sequence[str]]:
        """The train ids and those that are not trained on, sorted; empty before the split."""

    @property
    def current_round(self) -> int:
        """The number of the current round, from 1."""

    @property
    def batch_size(self) -> int | None:
        """The number of rows in an agreed batch."""


class Party:
    """The part of one party's hooks that is the same at Host and Collaborator.

    Args:
        table: this party's table.
        run: the scheduler, from which the agreed settings and the current round are read.
        known: returns labels of two classes of some ids, and their weights, at the party that has
            such labels; None at other parties.
    """

    def __init__(
        self,
        table: LocalTable,
        run: Run,
        known: Callable[[Sequence[str]], Known | None] | None = None,
    ) -> None:
        self.table = table
        self._run, self._known = run, known
        self._half: Half | None = None
        self._models: list[Half | Top] = []
        self._serves = False

    def begin(self) -> None:
        """Forget what an earlier run of the same object has made."""
        self._half, self._models = None, []
        self._serves = False

    def knows(self, model: M) -> M:
        """Register a model of this run, and return it."""
        self._models.append(model)
        return model

    @property
    def settings(self) -> Settings:
        """The agreed settings; in a prediction, those of the training."""
        plans = [each.plan for each in self._models if each.plan is not None]
        return Settings.read(plans[0].settings if plans else self._run.agreed)

    # -- ids -------------------------------------------------------------------------------

    def check(self, *, decides: bool = False) -> None:
        """Check the whole table before the parties connect; the errors are those of
        `LocalTable.check`.

        Args:
            decides: whether this party determines how ids are written, or knows it from its own
                recipe alone. Doubts about the ids are logged once, when this is known.
        """
        self.table.check()
        if decides or self.table.own_recipe is not None:
            self.table.tell_doubts()

    def ids(self, *, offer_repeats: bool = False) -> Iterable[str]:
        """Return this party's ids by the first key, in the form of the agreed recipe.

        Raises:
            ConfigError: the recipe has other keys than the plan.
        """
        recipe = IdRecipe.parse(self.settings.id_recipe)
        ids = self.table.read_ids(recipe, offer_repeats=offer_repeats)
        self.table.tell_doubts()
        return ids or [nobody(self._run.feature_key)]

    def further_ids(self, common: set[str], key: int) -> list[str]:
        """Return this party's ids by a further key (from 1), of rows that no key before has
        matched.

        Raises:
            ConfigError: the recipe has no such key.
        """
        self.check_keys()
        return self.table.further_ids(common, key)

    def as_matched(self, ids: Sequence[str]) -> list[str]:
        """Return ids as this party's table writes them in the form of the agreed recipe."""
        recipe = IdRecipe.parse(self.settings.id_recipe)
        return as_matched(ids, recipe.read_as(self.table.own_recipe))

    def check_keys(self) -> None:
        """Check that rows are matched by the keys of the recipe.

        Raises:
            ConfigError: they are not.
        """
        recipe = IdRecipe.parse(self.settings.id_recipe)
        if len(recipe.keys) != self._run.id_keys:
            raise ConfigError(
                f"the id recipe {str(recipe)!r} has {len(recipe.keys)} key(s), and rows are matched"
                f" by {self._run.id_keys}: give the recipe to the Host"
            )

    def advise(self) -> None:
        """Log how many rows matched, and what to try, if ids of the smaller set did not."""
        if not len(self._run.split_ids[0]):  # it is of a finished run
            return
        if advice := self.overlap_advice():
            is_clear = self.table.better_recipe is not None or self._is_scarce
            logger.log(logging.WARNING if is_clear else logging.INFO, "%s", advice)

    @property
    def _is_scarce(self) -> bool:
        return self._run.result.ids < SMALL_SHARE * self._run.result.smallest_ids

    def overlap_advice(self) -> str:
        """Return how many rows matched in this run, and what to try; empty if all ids of the
        smaller set did.
        """
        found, recipe = self._run.result, IdRecipe.parse(self.settings.id_recipe)
        rows, better = self.table.source.rows, self.table.better_recipe
        matched = self._matched_rows() if recipe.repeats > 1 else None
        return overlap_advice(found.ids, rows, found.smallest_ids, recipe, better, matched=matched)

    def _matched_rows(self) -> int:
        """Return the number of rows that have common ids, of which a row may have several."""
        ids = [each for part in self._run.split_ids for each in part]
        return len(np.unique(self.table.positions(ids)))

    def parts(self, ids: Sequence[str] | set[str]) -> Parts:
        """Split the common ids into parts.

        Every party computes the same parts, or the Host alone computes them from its table.
        """
        listed = list(ids)
        return self.settings.as_split.parts(listed, self._split_values(listed))

    def places(self, ids: PackedIds) -> tuple[Positions, Positions, Positions]:
        """Return the positions of the train, validation and test ids; see `parts`."""
        return self.settings.as_split.places(ids, self._split_values(ids))

    def _split_values(self, ids: Sequence[str]) -> Any:
        return None if self.settings.as_split.is_public else self.table.split_values(ids)

    def columns(self) -> list[str]:
        """Return the names of the columns that are read.

        For a model that predicts, they are in the order of the given table, and all their cells are
        checked: the parties have not met yet.

        Raises:
            ColumnError: a cell is not of the kind that its column had in the training.
        """
        if self._half is None or self._half.plan is None:
            return [each.name for each in self.table.columns]
        preparation = self._half.plan.preparation
        if not len(self._run.split_ids[0]) and set(preparation.names) <= set(
            self.table.source.columns
        ):
            self.table.source.typed(preparation.columns).check_cells()
        return self.table.columns_of(preparation)

    def prepared_columns(self) -> list[str]:
        """Return the columns on which the half was fitted, in the order of its preparation."""
        plan = None if self._half is None else self._half.plan
        return [] if plan is None else list(plan.preparation.names)

    # -- the half --------------------------------------------------------------------------

    def make_half(self) -> nn.Module:
        """Return this party's half, fitted on its train rows.

        Before there are train rows, the half is empty, and its file of weights will fill it.
        """
        train_ids, test_ids = self._run.split_ids
        if not len(train_ids):
            self._half = self.knows(Half())
            return self._half
        given = self.settings
        preparation = self.table.fit(train_ids, given.model, self._known)
        self.table.load(packed(train_ids) + packed(test_ids), preparation)
        self._half = self.knows(
            Half(
                HalfPlan(
                    model=given.model,
                    outputs=given.outputs,
                    width=given.width,
                    hidden=given.hidden,
                    dropout=given.dropout,
                    preparation=preparation,
                    settings=self._run.agreed,
                )
            )
        )
        return self._half

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Return an optimizer with the agreed settings."""
        given = self.settings
        return make_optimizer(model, lr=given.learning_rate, weight_decay=given.weight_decay)

    # -- batches ---------------------------------------------------------------------------

    def train_batches(
        self, ids: Sequence[str], optimizers: Sequence[Optimizer | None]
    ) -> Iterator[Batch]:
        """Yield the batches of a round; the learning rate of a step is set before its batch."""
        given, size = self.settings, self._run.batch_size or len(ids)
        each_round = -(-len(ids) // size)
        done = (self._run.current_round - 1) * each_round
        for number, batch in enumerate(self.table.batches(ids, size)):
            share = factor(given.schedule, done + number, given.rounds * each_round)
            for optimizer in optimizers:
                set_rate(optimizer, given.learning_rate * share)
            yield batch

    def test_batches(self, ids: Sequence[str]) -> Iterator[Batch]:
        """Yield batches of rows that are not trained on."""
        return self.table.batches(ids, max(self._run.batch_size or 0, LOOKED_AT))

    def permuted_batches(self, half: Any, ids: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows unchanged, and then with each column of this party permuted."""
        rows = torch.arange(len(ids))
        for inputs in permuted(self.table, half.plan.preparation, ids):
            yield Batch(inputs, rows, list(ids))

    def predict_batches(self, half: Any, ids: Sequence[str]) -> Iterator[Batch]:
        """Yield batches of rows that were not in the training, prepared in the same way."""
        plan = None if half is None else half.plan
        self.table.load(ids, None if plan is None else plan.preparation)
        return self.table.batches(ids, LOOKED_AT)

    def inputs_of(self, half: Any, ids: Sequence[str]) -> Inputs | None:
        """Return the inputs of some rows; the first call of a run prepares the whole table."""
        if not self._serves:
            self.table.load_all(None if half is None else half.plan.preparation)
            self._serves = True
        return next(self.table.batches(ids, len(ids))).inputs

    def inputs_from(self, half: Any, columns: dict[str, list[Any]]) -> Inputs:
        """Return the inputs of rows that are given by column.

        Raises:
            ColumnError: columns of the training are missing, or their values cannot be read.
        """
        preparation = half.plan.preparation
        source = open_source(pd.DataFrame(columns))
        source.must_have(preparation.names)
        inputs: Inputs = preparation.apply(source.typed(preparation.columns).frame())
        return inputs


LOOKED_AT = 4096
"""Return the number of rows in a batch that is not trained on."""
