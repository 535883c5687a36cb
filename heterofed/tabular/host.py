"""Defines the Host of a tabular task, with the label, perhaps columns, and the model on top."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed import Batch, ConfigError, HeteroNNHostScheduler, TaskResult, register_metrics
from heterofed.compute.packed_ids import PackedIds, Positions, packed
from heterofed.events import Callback
from heterofed.hetero_nn.hooks import half_engine, ids_of
from heterofed.reporting.console import attached
from heterofed.runs.run import Resume
from heterofed.tabular.evaluation import Evaluation
from heterofed.tabular.host_evaluation import HostEvaluation
from heterofed.tabular.host_importance import HostImportance
from heterofed.tabular.host_settings import fitting_batch, scheduler_settings, split_by
from heterofed.tabular.ids import Duplicates, IdRecipe
from heterofed.tabular.models import Top, TopPlan, warm_up
from heterofed.tabular.models.half import Model
from heterofed.tabular.objectives import Kind, Objective, read_labels
from heterofed.tabular.objectives.objective import ClassWeights
from heterofed.tabular.own_ids import ids_in_parts, in_table_order
from heterofed.tabular.party import Party
from heterofed.tabular.prepare import Step
from heterofed.tabular.settings import Schedule, Settings
from heterofed.tabular.table import Known, LocalTable, Location
from heterofed.tabular.take_home import TakeHome
from heterofed.tabular.take_home.distil import How, distil
from heterofed.tabular.targets import Rows, Targets, unpacked
from heterofed.tabular.tested import Tested


class TabularHost(HeteroNNHostScheduler):
    """The party with the label, and perhaps with columns too.

    Training stops early by the loss on a validation part of the train ids. The test ids are only
    used to evaluate the model of the best round. All settings except those of the table, the class
    weights and `patience` are announced to the others.

    Args:
        feature_key: the unique key of this party in the task, which is also its identity.
        table: a path, the address of a database, a DataFrame, or a result of `open_source`.
        ids: the column that holds the ids, or several columns.
        id_recipe: how ids are written; None for text. With several keys, such as "phone:CN;email",
            rows are matched by the first key, the remaining rows by the second, and so on.
        duplicates: what to do if several rows have the same id: raise an error ("error"); keep the
            "first" or the "last"; or keep "many", whose number is in the recipe.
        label: the column of the label; several columns of a multi-label task; None for an object
            that only predicts, with the model of a finished run.
        kind: the kind of the task: "binary", "multiclass", "multilabel", "regression" or "counts";
            "auto" determines it from the labels.
        positive: the class of a binary task whose probability is predicted.
        weight: the column of sample weights.
        class_weights: "balanced", or a weight by class.
        columns: the columns of the features; None for all other columns; an empty list if this
            party has only the label.
        prepare: the steps that prepare the features, in order; None for steps that suit each
            column.
        model: "mlp", "logistic", "wide_deep" or "deepfm".
        max_rounds: the largest number of rounds.
        patience: the number of rounds without a better validation loss after which training stops.
        test: the share of the common ids that is used for the test.
        validation: the share of the other ids that is used to stop training early.
        split_seed: the seed of the split.
        stratify: whether every class has the same share in each part. With this, and with `group`
            and `time`, only the Host splits, and the others learn which ids are in the test part
            and which are trained on.
        group: the column of a group, such as a person, whose rows all go into one part.
        time: the column of a time: the latest rows are used for the test.
        folds: the number of parts of a k-fold cross-validation.
        fold: which of these parts is the test part, counted from 0.
        batch_size: the number of rows in a batch. None means 256, or fewer if the Host's table has
            fewer than 8192 rows, so that a round has at least about 30 steps.
        width: the size of each party's embedding.
        hidden: the size of the hidden layer of each party's network.
        dropout: the dropout rate of each party's network.
        learning_rate: the learning rate of each party's optimizer.
        weight_decay: the weight decay of each party's optimizer.
        schedule: how the learning rate changes over the rounds.
        importance: whether to measure after the last round how important each column of each party
            is for the model of the best round, on up to 2,000 test rows (`importance.csv`, and the
            table `importance` of the evaluation). Every other party has to allow it.
        settings: further arguments of `HeteroNNHostScheduler`. With `party_dropout` the table
            `shares` of the evaluation has the contribution of each party
            (`heterofed.tabular.worth.party_shares`).

    Attributes:
        classes_: the classes in the order of their codes, which are known when the object is made.
        objective: how labels are read and what is learnt.

    Raises:
        ConfigError, ColumnError: a setting or the table is wrong; nothing was sent.
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
        label: str | Sequence[str] | None,
        kind: Kind | Literal["auto"] = "auto",
        positive: bool | float | str | None = None,
        weight: str | None = None,
        class_weights: ClassWeights = None,
        columns: Sequence[str] | None = None,
        prepare: Sequence[Step] | None = None,
        model: Model = "mlp",
        max_rounds: int = 30,
        patience: int = 5,
        test: float = 0.2,
        validation: float = 0.1,
        split_seed: int = 0,
        stratify: bool = False,
        group: str | None = None,
        time: str | None = None,
        folds: int = 0,
        fold: int = 0,
        batch_size: int | None = None,
        width: int = 32,
        hidden: int = 64,
        dropout: float = 0.3,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        schedule: Schedule = "cosine",
        importance: bool = False,
        **settings: Any,
    ) -> None:
        split = split_by(stratify=stratify, group=group, time=time)
        local = LocalTable(
            table,
            ids=ids,
            id_recipe=id_recipe,
            duplicates=duplicates,
            label=label or (),
            weight=weight,
            split_by=group or time,
            columns=columns,
            prepare=prepare,
        )
        self.objective: Objective | None = None
        if label is not None:
            names = " and ".join(local.label_columns)
            labels = read_labels(local.all_labels(), kind=kind, positive=positive, column=names)
            self.objective = Objective(labels=labels)
            local.check_steps(has_classes=labels.kind == "binary")
        recipe = local.own_recipe or IdRecipe.of_columns(len(local.id_columns))
        given = Settings(
            model=model,
            outputs=1 if self.objective is None else self.objective.outputs,
            rounds=max_rounds,
            width=width,
            hidden=hidden,
            dropout=dropout,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            id_recipe=str(recipe),
            split=split,
            test=test,
            validation=validation,
            split_seed=split_seed,
            folds=folds,
            fold=fold,
        )
        given.check()
        ours = scheduler_settings(
            given,
            local,
            recipe,
            settings,
            learns=label is not None,
            batch_size=batch_size,
            importance=importance,
            plain_step=type(self).train_a_batch is TabularHost.train_a_batch,
        )
        super().__init__(feature_key, **ours)
        self._class_weights = class_weights
        self._party = Party(local, self, self._known)
        shares = bool(settings.get("party_dropout"))
        self._evaluation = HostEvaluation(self, local, patience, has_shares=shares)
        self._columns = HostImportance(self, self._party)

    @property
    def tested(self) -> Tested | None:
        """The results on the test rows; None before the end of a run."""
        return self.tested_in(self.result.folder) if self.task_id else None

    def tested_in(self, folder: Path) -> Tested | None:
        """Return the results of another run of this object, such as a baseline, by its results
        folder.
        """
        return self._evaluation.tested_in(folder)

    @property
    def evaluation(self) -> Evaluation | None:
        """The evaluation of the best round's model on the test rows; None before the run's end."""
        return None if self.tested is None else self.tested.evaluation

    @property
    def classes_(self) -> tuple[Any, ...]:
        """The classes, in the order of their codes."""
        return () if self.objective is None else self.objective.classes

    def launch_task(
        self,
        task_id: str,
        resume: Resume = "auto",
        *,
        rehearse: bool = False,
        callbacks: Sequence[Callback] = (),
        watch: bool = False,
    ) -> TaskResult:
        if self.objective is None:
            raise ConfigError(
                "TabularHost(label=None) can only predict: give the column of the label to train"
            )
        with attached():
            self._party.check(decides=True)
        warm_up()
        return super().launch_task(
            task_id, resume, rehearse=rehearse, callbacks=callbacks, watch=watch
        )

    # -- ids and models --------------------------------------------------------------------

    def validate_context(self) -> None:
        super().validate_context()
        patience = self._evaluation.stopping.patience
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ConfigError(f"patience={patience!r}: give a number of rounds from 1 on")
        self._party.begin()

    def load_local_ids(self) -> Iterable[str]:
        self._party.check_keys()
        return self._party.ids()

    def ids_in_parts(self, size: int) -> tuple[int, Iterator[tuple[list[str], pd.DataFrame]]]:
        """Return the number of this party's ids, and the ids in parts of `size`, in the order of
        the table: as they are matched, and the table's own columns of ids.

        Those of a large table are never held at once.
        """
        table = self._party.table
        return table.ids_in_parts(size)[0], ids_in_parts(table, size)

    def load_further_ids(self, common: set[str], key: int) -> list[str]:
        return self._party.further_ids(common, key)

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        parts = self._party.parts(id_intersection)
        early, (train, looked_at) = set(parts.validation), parts.pair()
        self._evaluation.early = torch.tensor([each in early for each in sorted(looked_at)])
        return train, looked_at

    def split_places(self, ids: PackedIds) -> tuple[Positions, Positions] | None:
        if type(self).split_dataset is not TabularHost.split_dataset:
            return None
        train, validation, test = self._party.places(ids)
        looked_at = np.union1d(validation, test)
        self._evaluation.early = torch.from_numpy(np.isin(looked_at, validation))
        return train, looked_at

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

    def make_feature_model(self) -> nn.Module | None:
        self._party.advise()
        train, test = self.split_ids
        if not len(train):  # the one of a finished run is beside the files of this run
            trained = self.result.folder.parent / "feature_model.pt"
            return self._party.make_half() if trained.exists() else None
        if self.is_feature_trainable:
            return self._party.make_half()
        self._party.table.load(packed(train) + packed(test), None)
        return None

    def make_feature_optimizer(self, feature_model: nn.Module) -> Optimizer:
        return self._party.optimizer(feature_model)

    def make_infer_model(self) -> nn.Module:
        if not len(self.split_ids[0]):
            return self._party.knows(Top())  # its file of weights contains the rest
        given = self._party.settings
        plan = TopPlan(
            model=given.model,
            parties=len(self.parties) - (not self.is_feature_trainable),
            width=given.width,
            hidden=given.hidden,
            dropout=given.dropout,
            objective=self._fitted_objective(),
            settings=self.agreed,
        )
        return self._party.knows(Top(plan))

    def make_infer_optimizer(self, infer_model: nn.Module) -> Optimizer:
        return self._party.optimizer(infer_model)

    def _fitted_objective(self) -> Objective:
        """Read labels and weights of this run's rows; the objective is scaled to the train rows."""
        if self.objective is None:
            raise ConfigError("this TabularHost was given no label to train on")
        train, test = self.split_ids
        ids = packed(train) + packed(test)
        targets = self._evaluation.targets = Targets.of(self._party.table, self.objective, ids)
        return targets.fitted(self.objective, len(train), self._class_weights)

    def _known(self, ids: Sequence[str]) -> Known | None:
        """Return labels 0 and 1 of some ids, and their weights, for steps that are fitted with
        them.
        """
        if self.objective is None or self.objective.kind != "binary":
            return None
        targets = Targets.of(self._party.table, self.objective, ids)
        weights = targets.weights.double().numpy() if targets.weighed else None
        return targets.labels.double().numpy(), weights

    # -- batches ---------------------------------------------------------------------------

    def iterate_train_feature(
        self, feature_model: nn.Module | None, train_ids: list[str]
    ) -> Iterator[Batch]:
        for batch in self._party.train_batches(train_ids, [self.optimizer]):
            yield self._batch(feature_model, batch)

    def iterate_test_feature(
        self, feature_model: nn.Module | None, test_ids: list[str]
    ) -> Iterator[Batch]:
        for batch in self._party.test_batches(test_ids):
            yield self._batch(feature_model, batch)

    def iterate_predict_feature(
        self, feature_model: nn.Module | None, predict_ids: list[str]
    ) -> Iterator[Batch]:
        for batch in self._party.predict_batches(feature_model, predict_ids):
            features = None if feature_model is None else feature_model(batch.inputs)
            yield Batch(features, None, batch.ids)

    def load_features(self, ids: list[str]) -> Any:
        return self._party.inputs_of(self.feature_model, ids)

    def read_ids(self, ids: list[str]) -> list[str]:
        return self._party.as_matched(ids)

    def read_columns(self, columns: dict[str, list[Any]]) -> Any:
        return self._party.inputs_from(self.feature_model, columns)

    def _batch(self, half: nn.Module | None, batch: Any) -> Batch:
        features = None if half is None else half(batch.inputs)
        return Batch(features, self._evaluation.targets.of_rows(batch.rows), batch.ids)

    # -- steps and tests -------------------------------------------------------------------

    def train_a_batch(self, feature_projection: dict[str, Any], labels: Rows) -> Tensor:
        self.optimizer.zero_grad()
        outputs = self.infer_model(feature_projection)
        loss = self._objective.loss(outputs, *unpacked(labels))
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    @register_metrics(name="test", keys=["rows"])
    @register_metrics(name="validation", keys=["loss"])
    def test(
        self,
        batched_feature_projections: list[dict[str, Any]],
        batched_labels: list[Rows],
    ) -> None:
        """Evaluate the validation rows in each round, and the test rows if the model is the best so
        far.

        The results on the test rows are reported when no better model can follow.
        """
        self._evaluation.test(batched_feature_projections, batched_labels)

    def is_task_finished(self) -> bool:
        is_over = self._evaluation.stopping.is_over(self.current_round)
        return is_over or self._is_reach_max_rounds()

    def extra_state(self) -> dict[str, Any]:
        return self._evaluation.state()

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self._evaluation.load(state)

    def predict_a_batch(self, feature_projection: dict[str, Any]) -> Any:
        return self._objective.predictions(self.infer_model(feature_projection))

    def take_home(self, task_id: str, *, seed: int | None = None) -> TakeHome:
        """Make a model that needs this party's columns only, from predictions of the joint one.

        Every Collaborator has to run `serve_predictions`, as for `predict`. The model is kept in
        the folder `take_home` of the results folder.

        It learns the joint scores of the train rows, and is compared with the joint model and with
        a local one on the test rows.

        Args:
            task_id: the id of the finished task.
            seed: the seed of its training; None draws one.

        Raises:
            ConfigError: the terms of the task do not allow it (see `predict`), this object has no
                label, or the Host has no columns.
            TaskFailed: the prediction failed.
        """
        if self.objective is None:
            raise ConfigError(
                "a take-home model is compared with others by labels: give the column of the label"
            )
        predicted = self.predict(task_id, models="best", take_home=True)
        given = half_engine(self).settings
        folder = given.results_dir.absolute() / task_id / given.shown_name
        how = How(fitting_batch(len(predicted)), self._evaluation.stopping.patience, seed)
        return distil(self._party.table, folder, predicted, how)

    # -- what columns are worth ------------------------------------------------------------

    def final_look(self, party: str, number: int, features: Any) -> None:
        evaluation = self._evaluation
        self._columns.look(party, number, features, evaluation.early, evaluation.targets)

    def end_final_look(self) -> dict[str, list[float]]:
        return self._columns.end()

    def in_table_order(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the result of `predict` in the order of this party's table, and with its ids.

        In place of the column `id` are the columns of the ids, with their names and cells in the
        table, so that the result can be joined onto it. If rows are matched by several keys, the
        column `matched_by` names the columns of the key that matched a row.
        """
        recipe = IdRecipe.parse(self._party.settings.id_recipe)
        return in_table_order(self._party.table, recipe, frame)

    @property
    def _objective(self) -> Objective:
        """The objective of the model on top, which has it in a prediction too."""
        objective: Objective = self.infer_model.plan.objective
        return objective
