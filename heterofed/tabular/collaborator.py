"""A Collaborator with a table: columns only, no label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from heterofed import Batch, ConfigError, HeteroNNCollaboratorScheduler, TaskResult
from heterofed.runs.run import Resume
from heterofed.tabular.party import Party
from heterofed.tabular.prepare import Step
from heterofed.tabular.table import LocalTable, Location


class TabularCollaborator(HeteroNNCollaboratorScheduler):
    """A party with a table and no label; the Host's plan says what model it is for.

    Args:
        feature_key: this party's unique key in the task; also its identity.
        table: a path, the address of a database, a DataFrame, or what `open_source` gave.
        ids: the column that holds the ids, or several.
        columns: the features; None: all other columns.
        prepare: what is done to them, in order (see `heterofed.tabular.prepare`); None: what suits
            each column. It is fitted on this party's train rows.
        settings: of `HeteroNNCollaboratorScheduler`.

    Raises:
        ConfigError: the table cannot be read.
        ColumnError: a column is not there.
    """

    models_after_split = True

    def __init__(
        self,
        feature_key: str,
        table: Location,
        *,
        ids: str | Sequence[str],
        columns: Sequence[str] | None = None,
        prepare: Sequence[Step] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(feature_key, **settings)
        self._party = Party(LocalTable(table, ids=ids, columns=columns, prepare=prepare), self)

    def launch_task(
        self, task_id: str, resume: Resume = "auto", *, rehearse: bool = False
    ) -> TaskResult:
        table = self._party.table
        if not table.has_features:
            raise ConfigError(f"{table.source.name} has no column to learn from beside its ids")
        return super().launch_task(task_id, resume, rehearse=rehearse)

    def validate_context(self) -> None:
        super().validate_context()
        self._party.begin()

    def load_local_ids(self) -> list[str]:
        return self._party.table.ids()

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return self._party.parts(id_intersection).pair()

    def feature_columns(self) -> list[str]:
        return self._party.columns()

    def make_feature_model(self) -> nn.Module:
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

    def iterate_predict_feature(
        self, feature_model: nn.Module, predict_ids: list[str]
    ) -> Iterator[Batch]:
        for batch in self._party.predict_batches(feature_model, predict_ids):
            yield Batch(feature_model(batch.inputs), ids=batch.ids)
