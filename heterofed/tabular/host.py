"""The Host of a tabular task: the label, perhaps columns too, and the model on top."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed import Batch, ConfigError, HeteroNNHostScheduler, TaskResult, register_metrics
from heterofed.runs.run import Resume
from heterofed.tabular.evaluation import Evaluation, evaluate
from heterofed.tabular.models import Top, TopPlan
from heterofed.tabular.models.half import Model
from heterofed.tabular.objectives import Kind, Objective, read_labels
from heterofed.tabular.objectives.objective import ClassWeights
from heterofed.tabular.party import Party
from heterofed.tabular.prepare import Step
from heterofed.tabular.settings import Schedule, Settings
from heterofed.tabular.table import LocalTable, Location
from heterofed.tabular.targets import EarlyStopping, Targets

logger = logging.getLogger("heterofed")


class TabularHost(HeteroNNHostScheduler):
    """The party with the label, and perhaps columns too.

    Training stops early by the loss on a validation part of the train ids; the test ids only tell
    how good the model of the best round is. All settings here but those of the table, the class
    weights and `patience` are announced to the others.

    Args:
        feature_key: this party's unique key in the task; also its identity.
        table: a path, the address of a database, a DataFrame, or what `open_source` gave.
        ids: the column that holds the ids, or several.
        label: the column of the label; several columns of a multi-label task; None: this object is
            to predict only, with the model of a finished run.
        kind: of the task: "binary", "multiclass", "multilabel", "regression", "counts"; "auto"
            reads it from the labels.
        positive: of a binary task, the class whose probability is predicted.
        weight: the column of sample weights.
        class_weights: "balanced", or a weight by class.
        columns: the features; None: all other columns; none at all: only the label is here.
        prepare: what is done to them, in order; None: what suits each column.
        model: "mlp", "logistic", "wide_deep" or "deepfm".
        max_rounds: most rounds.
        patience: rounds without a better validation loss after which training stops.
        test: share of the common ids for the test.
        validation: share of the others that stops training early.
        split_seed: another one gives another split.
        batch_size: rows of a batch.
        width, hidden, dropout: of each party's network.
        learning_rate, weight_decay, schedule: of each party's optimizer.
        settings: further ones of `HeteroNNHostScheduler`.

    Attributes:
        classes_: the classes in the order of their codes; known when the object is made.
        objective: how labels are read and what is learnt.
        evaluation: of the test rows, by the model of the best round; None before the end of a run.

    Raises:
        ConfigError, ColumnError: a setting or the table cannot be; nothing was sent.
    """

    models_after_split = True

    def __init__(
        self,
        feature_key: str,
        table: Location,
        *,
        ids: str | Sequence[str],
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
        batch_size: int = 256,
        width: int = 32,
        hidden: int = 64,
        dropout: float = 0.3,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        schedule: Schedule = "cosine",
        **settings: Any,
    ) -> None:
        local = LocalTable(
            table, ids=ids, label=label or (), weight=weight, columns=columns, prepare=prepare
        )
        self.objective: Objective | None = None
        if label is not None:
            names = " and ".join(local.label_columns)
            labels = read_labels(local.all_labels(), kind=kind, positive=positive, column=names)
            self.objective = Objective(labels=labels)
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
            test=test,
            validation=validation,
            split_seed=split_seed,
        )
        given.check()
        super().__init__(
            feature_key,
            max_rounds=max_rounds,
            **{
                "log_rounds": 1,
                "shuffle": True,
                "is_feature_trainable": label is not None and local.has_features,
                "agreed": given.announced(),
                "batch_size": batch_size,
            }
            | settings,
        )
        self._class_weights = class_weights
        self._stopping = EarlyStopping(patience)
        self._tested = torch.zeros(0)
        self._targets: Targets
        self.evaluation: Evaluation | None = None
        self._party = Party(local, self)

    @property
    def classes_(self) -> tuple[Any, ...]:
        """The classes, in the order of their codes."""
        return () if self.objective is None else self.objective.classes

    def launch_task(
        self, task_id: str, resume: Resume = "auto", *, rehearse: bool = False
    ) -> TaskResult:
        if self.objective is None:
            raise ConfigError(
                "TabularHost(label=None) can only predict: give the column of the label to train"
            )
        logger.info("labels: %s", self.objective.labels.said)
        return super().launch_task(task_id, resume, rehearse=rehearse)

    # -- ids and models --------------------------------------------------------------------

    def validate_context(self) -> None:
        super().validate_context()
        patience = self._stopping.patience
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ConfigError(f"patience={patience!r}: give a number of rounds from 1 on")
        self._party.begin()

    def load_local_ids(self) -> list[str]:
        return self._party.table.ids()

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return self._party.parts(id_intersection).pair()

    def feature_columns(self) -> list[str]:
        return self._party.columns()

    def make_feature_model(self) -> nn.Module | None:
        if not self.train_ids:  # of a finished run; it lies beside what this one will write
            trained = self.result.folder.parent / "feature_model.pt"
            return self._party.make_half() if trained.exists() else None
        if self.is_feature_trainable:
            return self._party.make_half()
        self._party.table.load([*self.train_ids, *self.test_ids], None)
        return None

    def make_feature_optimizer(self, feature_model: nn.Module) -> Optimizer:
        return self._party.optimizer(feature_model)

    def make_infer_model(self) -> nn.Module:
        if not self.train_ids:
            return Top()  # its file of weights says the rest
        given = self._party.settings
        return Top(
            TopPlan(
                model=given.model,
                parties=len(self.parties) - (not self.is_feature_trainable),
                width=given.width,
                hidden=given.hidden,
                dropout=given.dropout,
                objective=self._fitted_objective(),
                settings=self.agreed,
            )
        )

    def make_infer_optimizer(self, infer_model: nn.Module) -> Optimizer:
        return self._party.optimizer(infer_model)

    def _fitted_objective(self) -> Objective:
        """Read labels and weights of the ids of this run; the objective learns from the train rows."""
        if self.objective is None:
            raise ConfigError("this TabularHost was given no label to train on")
        table, ids = self._party.table, (self.train_ids, self.test_ids)
        held = self._party.parts({*self.train_ids, *self.test_ids}).validation
        self._targets = Targets.of(table, self.objective, *ids, held)
        return self._targets.fitted(self.objective, len(self.train_ids), self._class_weights)

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

    def _batch(self, half: nn.Module | None, batch: Any) -> Batch:
        features = None if half is None else half(batch.inputs)
        return Batch(features, self._targets.of_rows(batch.rows), batch.ids)

    # -- steps and tests -------------------------------------------------------------------

    def train_a_batch(
        self, feature_projection: dict[str, Any], labels: dict[str, Tensor]
    ) -> Tensor:
        self.optimizer.zero_grad()
        outputs = self.infer_model(feature_projection)
        loss = self._objective.loss(outputs, labels["label"], labels["weight"])
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    @register_metrics(name="test", keys=["rows"])
    @register_metrics(name="validation", keys=["loss"])
    def test(
        self,
        batched_feature_projections: list[dict[str, Any]],
        batched_labels: list[dict[str, Tensor]],
    ) -> None:
        """Look at the validation rows in each round; at the test rows when the model is the best
        so far, and say what was found when there is no better one to come.
        """
        outputs = torch.cat([self.infer_model(each) for each in batched_feature_projections])
        labels, weights = (
            torch.cat([each[name] for each in batched_labels]) for name in ("label", "weight")
        )
        held = self._targets.held_out
        loss = float(self._objective.loss(outputs[held], labels[held], weights[held]))
        found = self._judged(outputs[held], labels[held], weights[held]).metrics
        self._append("validation", {"loss": loss} | dict(itertools.islice(found.items(), 2)))
        if self._stopping.note(loss, self.current_round):
            self.mark_best()
            self._tested = outputs[~held]
        if self.is_task_finished():
            self.evaluation = self._judged(self._tested, labels[~held], weights[~held])
            self._append("test", {"rows": self.evaluation.rows} | self.evaluation.metrics)

    def is_task_finished(self) -> bool:
        return self._stopping.is_over(self.current_round) or self._is_reach_max_rounds()

    def extra_state(self) -> dict[str, Any]:
        return {"stopping": self._stopping.state(), "tested": self._tested}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self._stopping.load(state["stopping"])
        self._tested = state["tested"]

    def predict_a_batch(self, feature_projection: dict[str, Any]) -> Any:
        objective = self._objective
        scores = objective.scores(self.infer_model(feature_projection))
        if objective.kind in ("multiclass", "multilabel"):
            return {
                f"probability {name}": scores[:, at] for at, name in enumerate(objective.classes)
            }
        return {"probability" if objective.kind == "binary" else "prediction": scores}

    def _judged(self, outputs: Tensor, labels: Tensor, weights: Tensor) -> Evaluation:
        objective = self._objective
        return evaluate(
            objective.kind,
            labels,
            objective.scores(outputs),
            weights if self._targets.weighed else None,
            classes=objective.classes,
        )

    def _append(self, name: str, row: dict[str, float]) -> None:
        metrics = self.get_metrics(name)
        metrics.widen(row)
        metrics.append_metrics_item(dict.fromkeys(metrics.keys, math.nan) | row)

    @property
    def _objective(self) -> Objective:
        """As the model on top holds it, which knows it in a prediction too."""
        objective: Objective = self.infer_model.plan.objective
        return objective
