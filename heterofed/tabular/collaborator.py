"""Defines a Collaborator with a table, which has columns and no label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from heterofed import Batch, ConfigError, HeteroNNCollaboratorScheduler, TaskResult
from heterofed.compute.packed_ids import PackedIds, Positions
from heterofed.errors import FinalLookRefusedError
from heterofed.events import Callback
from heterofed.hetero_nn.hooks import ids_of
from heterofed.reporting.console import attached
from heterofed.runs.run import Resume
from heterofed.tabular import importance as importances
from heterofed.tabular.ids import Duplicates, IdRecipe
from heterofed.tabular.models import warm_up
from heterofed.tabular.party import Party
from heterofed.tabular.prepare import Step
from heterofed.tabular.table import LocalTable, Location


class TabularCollaborator(HeteroNNCollaboratorScheduler):
    """A party with a table and no label; the Host's plan describes the model.

    Args:
        feature_key: the unique key of this party in the task, which is also its identity.
        table: a path, the address of a database, a DataFrame, or a result of `open_source`.
        ids: the column that holds the ids, or several columns.
        id_recipe: how to read the ids of this table if it is not as the Host announces: the country
            of phone numbers, the order of days and months.
        duplicates: what to do if several rows have the same id: raise an error ("error"), or keep
            the "first" or the "last".
        columns: the columns of the features; None for all other columns.
        prepare: the steps that prepare the features, in order (see `heterofed.tabular.prepare`);
            None for steps that suit each column. They are fitted on this party's train rows.
        importance: whether the Host may measure how important each column is. After the last round
            some test rows are sent again, once for each column, with the values of that column
            permuted over the rows. `importance.csv` then has the importance of this party's columns
            by name; the Host knows only their numbers. Without permission, a Host that measures it
            is refused.
        settings: further arguments of `HeteroNNCollaboratorScheduler`.

    Raises:
        ConfigError: the table cannot be read.
        ColumnError: a column does not exist.
    """

    models_after_split = True

    def __init__(
        self,
        feature_key: str,
        table: Location,
        *,
        ids: str | Sequence[str],
        id_recipe: IdRecipe | str | None = None,
        duplicates: Duplicates = "error",
        columns: Sequence[str] | None = None,
        prepare: Sequence[Step] | None = None,
        importance: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(feature_key, **settings)
        local = LocalTable(
            table,
            ids=ids,
            id_recipe=id_recipe,
            duplicates=duplicates,
            columns=columns,
            prepare=prepare,
        )
        self._allows_importance = importance
        local.check_steps(has_classes=False)
        self._party = Party(local, self)

    def launch_task(
        self,
        task_id: str,
        resume: Resume = "auto",
        *,
        rehearse: bool = False,
        callbacks: Sequence[Callback] = (),
        watch: bool = False,
    ) -> TaskResult:
        with attached():
            self._party.check()
        warm_up()
        return super().launch_task(
            task_id, resume, rehearse=rehearse, callbacks=callbacks, watch=watch
        )

    def validate_context(self) -> None:
        super().validate_context()
        self._party.begin()

    def load_local_ids(self) -> Iterable[str]:
        if self.parties:
            self._party.check_keys()
        if self.id_keys > 1 and self._party.table.own_recipe is None:
            raise ConfigError(
                f"the Host matches rows by {self.id_keys} keys, one after another, so each column"
                " of ids is compared by itself: agree with a recipe of as many keys (id_recipe=,"
                " --id-recipe)"
            )
        if self.final_rows and not self._allows_importance:
            raise ConfigError(
                "the Host measures what each column is worth, for which up to"
                f" {self.final_rows} test rows leave once more for each column here: allow it with"
                " importance=True (--importance), or let the Host leave it out",
                told=FinalLookRefusedError.code,
            )
        return self._party.ids(offer_repeats=True)

    def load_further_ids(self, common: set[str], key: int) -> list[str]:
        return self._party.further_ids(common, key)

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return self._party.parts(id_intersection).pair()

    def split_places(self, ids: PackedIds) -> tuple[Positions, Positions] | None:
        if type(self).split_dataset is not TabularCollaborator.split_dataset:
            return None
        train, validation, test = self._party.places(ids)
        return train, np.union1d(validation, test)

    @property
    def split_ids(self) -> tuple[Sequence[str], Sequence[str]]:
        """The train ids and the others, which are packed if there are many; see
        `heterofed.compute.packed_ids`.
        """
        return ids_of(self)

    def overlap_advice(self) -> str:
        """Return how many rows matched in this run, and what to try; empty if all ids of the
        smaller set did.
        """
        return self._party.overlap_advice()

    def feature_columns(self) -> list[str]:
        return self._party.columns()

    def make_feature_model(self) -> nn.Module:
        self._party.advise()
        return self._party.make_half()

    def make_feature_optimizer(self, feature_model: nn.Module) -> Optimizer:
        return self._party.optimizer(feature_model)

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Batch]:
        for batch in self._party.train_batches(train_ids, [self.feature_optimizer]):
            yield Batch(feature_model(batch.inputs), ids=batch.ids)

    def iterate_test_feature(
        self, feature_model: nn.Module, test_ids: list[str]
    ) -> Iterator[Batch]:
        for batch in self._party.test_batches(test_ids):
            yield Batch(feature_model(batch.inputs), ids=batch.ids)

    def iterate_final_feature(
        self, feature_model: nn.Module, final_ids: list[str]
    ) -> Iterator[Batch]:
        for batch in self._party.permuted_batches(feature_model, final_ids):
            yield Batch(feature_model(batch.inputs), ids=batch.ids)

    def take_findings(self, values: list[float]) -> None:
        key, names = self.feature_key, self._party.prepared_columns()
        table = importances.table_of({key: values}, key, names)
        self.result.metrics["importance"] = importances.written(self.result.folder, table)

    def load_features(self, ids: list[str]) -> Any:
        return self._party.inputs_of(self.feature_model, ids)

    def iterate_predict_feature(
        self, feature_model: nn.Module, predict_ids: list[str]
    ) -> Iterator[Batch]:
        for batch in self._party.predict_batches(feature_model, predict_ids):
            yield Batch(feature_model(batch.inputs), ids=batch.ids)
