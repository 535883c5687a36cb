"""Distils the scores of a joint model into one of the Host's columns, and compares them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.files import read
from heterofed.reporting.results import write_whole
from heterofed.runs.artifacts import load_weights, read_trained
from heterofed.tabular.ids import unmarked
from heterofed.tabular.models import Half, Top
from heterofed.tabular.objectives import Objective
from heterofed.tabular.splits import Split
from heterofed.tabular.table import LocalTable
from heterofed.tabular.take_home.compared import NAME, Compared
from heterofed.tabular.take_home.model import TakeHome, keep
from heterofed.tabular.take_home.student import Lesson, Student
from heterofed.tabular.targets import Targets
from heterofed.tabular.tested import EVALUATION, SCORES, scores_in

CHECKED = 0.1
"""The share of the train rows whose loss stops the training."""

FEWEST = 20
"""The fewest rows with joint predictions of which a model is made."""


@dataclass(frozen=True, slots=True)
class How:
    """The settings of a distillation.

    Attributes:
        batch_size: the number of rows in a step.
        patience: the number of rounds without a better loss after which training stops.
        seed: the seed of the initial weights and of the order of rows; None draws one.
    """

    batch_size: int
    patience: int
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of which joint predictions are known.

    Attributes:
        train: the ids that a model may learn from, sorted.
        test: the ids that only compare models.
        scores: the joint scores by id, those of the test rows too.
    """

    train: list[str]
    test: list[str]
    scores: dict[str, NDArray[np.float64]]

    def of(self, ids: list[str]) -> Tensor:
        """Return the joint scores of some ids, in their order."""
        return torch.from_numpy(np.stack([self.scores[each] for each in ids])).float()


def distil(table: LocalTable, folder: Path, predicted: pd.DataFrame, how: How) -> TakeHome:
    """Make a take-home model, keep it beside the joint one, and add it to the joint evaluation.

    The test rows of the joint training are not learnt from. Both this model and the local one, with
    which it is compared, are trained in the same way from the same weights.

    Args:
        table: the Host's table with its label, whose ids were read.
        folder: the Host's results folder of the joint run.
        predicted: the joint predictions, with a column `id`.
        how: the settings.

    Raises:
        ConfigError: the Host has no columns, there is no result on test rows, or there are too few
            rows.
        ColumnError: the quality of models is undefined on the test rows.
    """
    joint, told = read_trained(folder, "best"), _told_in(folder)
    half, top = Half(), Top()
    if not joint.path("feature_model.pt").exists():
        raise ConfigError(
            "this Host trained on no columns of its own, so there is nothing that a take-home model"
            " could read; train with some"
        )
    load_weights(joint, "feature_model", half)
    load_weights(joint, "infer_model", top)
    if half.plan is None or top.plan is None:
        raise ConfigError(f"the models in {folder} are empty; train again")
    rows, objective = _rows(folder, predicted), top.plan.objective
    table.load([*rows.train, *rows.test], half.plan.preparation)
    labels = Targets.of(table, objective, [*rows.train, *rows.test])
    truth, weights = _apart(labels, len(rows.train))
    learnt = {"take_home": (_soft(objective), rows.of(rows.train)), "local": (objective, truth[0])}
    students = {}
    for name, (aim, targets) in learnt.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed() if how.seed is None else how.seed)
            student = students[name] = Student(half.plan, top.plan)
            lesson = Lesson(rows.train, targets, weights[0])
            student.learn(
                table, aim, *_parts(lesson), batch_size=how.batch_size, patience=how.patience
            )
    scores = {
        name: objective.scores(each.judged(table, rows.test)) for name, each in students.items()
    }
    scores["joint"] = rows.of(rows.test)
    weighed = weights[1] if labels.weighed else None
    compared = Compared.judged(objective.kind, truth[1], scores, weighed, len(rows.train))
    made = keep(students["take_home"], compared, joint)
    _tell(folder, told, compared)
    return made


def _rows(folder: Path, predicted: pd.DataFrame) -> Rows:
    """Return which rows to learn from, and which only compare.

    Raises:
        ConfigError: the results on test rows are missing, or there are too few rows.
    """
    if not (folder / SCORES).exists():
        raise ConfigError(f"{folder / SCORES} is missing, which has the test rows; train again")
    tested = scores_in(folder)
    columns = [name for name in predicted.columns if name.partition(" ")[0] in _PREDICTIONS]
    values = predicted[columns].to_numpy(np.float64)
    found = dict(zip(predicted["id"], values if len(columns) > 1 else values[:, 0], strict=True))
    train = sorted(each for each in found if unmarked(each) not in tested)
    test = sorted(each for each in found if unmarked(each) in tested)
    if len(train) < FEWEST or not test:
        raise ConfigError(
            f"{len(train)} train rows and {len(test)} test rows have joint predictions, and it"
            f" takes {FEWEST} and 1; give the table of the training"
        )
    return Rows(train, test, found | {each: tested[unmarked(each)] for each in test})


_PREDICTIONS = ("probability", "prediction")
"""The beginnings of the names of columns that hold predictions."""


def _apart(targets: Targets, train: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return labels, and weights, of the train rows and of the test rows."""
    labels, weights = targets.labels, targets.weights
    return (labels[:train], labels[train:]), (weights[:train], weights[train:])


def _soft(objective: Objective) -> Objective:
    """Return the objective for scores as targets, in which class weights are already."""
    return msgspec.structs.replace(objective, class_weights=())


def _parts(lesson: Lesson) -> tuple[Lesson, Lesson]:
    """Return the rows to train on, and those that stop the training."""
    checked = set(Split(test=CHECKED).parts(lesson.ids).test)
    is_checked = torch.tensor([each in checked for each in lesson.ids])
    return tuple(lesson.at(each.nonzero()[:, 0]) for each in (~is_checked, is_checked))  # type: ignore[return-value]


def _told_in(folder: Path) -> dict[str, Any]:
    """Return the evaluation of the joint model, to which the comparison is added.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        told: dict[str, Any] = msgspec.json.decode(read(folder / EVALUATION), type=dict[str, Any])
        if not isinstance(told.setdefault("tables", {}), dict):
            raise ValueError
    except (OSError, ValueError):
        raise ConfigError(
            f"{folder / EVALUATION} cannot be read, to which the comparison belongs; train again"
        ) from None
    return told


def _tell(folder: Path, told: dict[str, Any], compared: Compared) -> None:
    """Add the comparison to the evaluation of the joint model, which its report shows."""
    table = {"columns": ["model", compared.metric], "rows": compared.rows()}
    told["tables"][NAME] = table
    text = json.dumps(told, indent=2).encode()
    write_whole(folder / EVALUATION, lambda file: file.write(text))
