"""Defines `fit`, which trains all parties of a tabular task in one process, for a notebook.

Use it to find out what a joint model would be worth if all tables may be on one machine. The
parties do the same as in separate processes.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from heterofed import ConfigError, TaskResult, simulate, simulate_prediction
from heterofed.hetero_nn.hooks import half_engine
from heterofed.reporting import markup
from heterofed.simulation.one_graph import Mode
from heterofed.simulation.simulate import Simulation
from heterofed.tabular.collaborator import TabularCollaborator
from heterofed.tabular.evaluation import Evaluation
from heterofed.tabular.host import TabularHost
from heterofed.tabular.prepare import Step
from heterofed.tabular.table import Location
from heterofed.tabular.take_home import TakeHome
from heterofed.tabular.tested import Tested
from heterofed.tabular.worth import Worth, worth

Names = str | Sequence[str]

LABELLED = ("kind", "positive", "weight")
"""The settings that say how labels are read."""

BESIDE_SCORES = ("id", "parties")
"""The first and the last column of a joint prediction."""


def fit(
    tables: Mapping[str, Location],
    *,
    ids: Names | Mapping[str, Names],
    label: Names,
    columns: Mapping[str, Sequence[str]] | None = None,
    prepare: Mapping[str, Sequence[Step]] | None = None,
    baselines: Sequence[Mode] = ("local",),
    task_id: str | None = None,
    seed: int | None = None,
    results_dir: str | Path = "heterofed_runs",
    **settings: Any,
) -> Fitted:
    """Train a joint model of several tables in this process.

    Args:
        tables: the table of each party, the Host's first: paths, addresses of databases, or
            DataFrames.
        ids: the column that holds the ids, or several columns; by party if their names differ.
        label: the column of the label in the Host's table, or several columns.
        columns: the columns of the features by party; a party that is not named uses all others.
        prepare: the steps that prepare the columns, by party.
        baselines: what to train for comparison: "local" (the Host's columns alone), "pooled" (one
            model of all columns), or both.
        task_id: the name of the results folder; None makes one up.
        seed: the seed; with the same seed a run is repeated.
        results_dir: the parent of the results folder.
        settings: further arguments of `TabularHost`, such as `model`, `max_rounds` or `kind`.

    Raises:
        ConfigError: there are fewer than two tables, the columns of ids of a party are unknown, or
            a setting is wrong.
        ColumnError, IdError: a table cannot be used.
    """
    names = list(tables)
    if len(names) < 2:
        raise ConfigError("fit takes two tables or more, by party: {'bank': ..., 'shop': ...}")
    known = dict(ids) if isinstance(ids, Mapping) else dict.fromkeys(names, ids)
    if lost := [name for name in names if name not in known]:
        raise ConfigError(f"ids: name the columns that hold the ids of {lost[0]!r}, too")

    def given(name: str) -> dict[str, Any]:
        return {
            "ids": known[name],
            "columns": (columns or {}).get(name),
            "prepare": (prepare or {}).get(name),
            "seed": seed,
            "results_dir": results_dir,
        }

    first, *others = names
    of_host = {"collaborators": others, "psi_protocol": "ecdh"} | settings
    host = TabularHost(first, tables[first], label=label, **given(first), **of_host)
    collaborators = [TabularCollaborator(name, tables[name], **given(name)) for name in others]
    if task_id is None:
        task_id = f"fit-{secrets.token_hex(3)}"
        half_engine(host).order_of = "fit"  # the same for all ids that are made up
    done = simulate(host, collaborators, task_id=task_id, baselines=baselines)
    labelled = {name: settings[name] for name in LABELLED if name in settings}
    return Fitted(host, dict(tables), known, {"label": label, **labelled}, done)


class Fitted:
    """A joint model that `fit` has trained.

    Args:
        host: the Host after the run.
        tables: the table of each party.
        ids: the columns of the ids, by party.
        labelled: the arguments of `TabularHost` that say which columns the labels and weights are
            and how they are read.
        simulation: the result of the run.

    Attributes:
        classes_: the classes in the order of the columns of `predict_proba`; empty for numbers.
        feature_names_in_: the names of the columns that the model reads, by party.
        simulation: the results of the run at each party, with the baselines' files.
    """

    def __init__(
        self,
        host: TabularHost,
        tables: Mapping[str, Location],
        ids: Mapping[str, Names],
        labelled: Mapping[str, Any],
        simulation: Simulation,
    ) -> None:
        self._labelled = dict(labelled)
        self._tables, self._ids = dict(tables), dict(ids)
        self._names, self.simulation = list(tables), simulation
        self._recipe = host.agreed["id_recipe"]
        self.classes_ = np.asarray(host.classes_)
        self.feature_names_in_ = {
            name: np.asarray(_columns_of(result.folder), dtype=object)
            for name, result in simulation.results.items()
        }
        self._tested = _by_mode(host, simulation)

    @property
    def result(self) -> TaskResult:
        """The result of the run at the Host: rounds, files, seconds and bytes."""
        result: TaskResult = self.simulation.results[self._names[0]]
        return result

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """The evaluation of each model on the test rows: `joint`, and the baselines."""
        return {mode: each.evaluation for mode, each in self._tested.items()}

    @property
    def worth(self) -> Worth | None:
        """The worth of the partners: joint against local; None without that baseline."""
        if "local" not in self._tested:
            return None
        joint, local = self._tested["joint"], self._tested["local"]
        kind = joint.evaluation.kind
        return worth(kind, joint.labels, joint.scores, local.scores, joint.weights)

    def frame(self) -> pd.DataFrame:
        """Return the numbers of all models, with a column for each."""
        numbers = {mode: each.metrics for mode, each in self.evaluations.items()}
        return pd.DataFrame(numbers)

    # -- predictions -----------------------------------------------------------------------

    def predictions(self, tables: Mapping[str, Location] | None = None) -> pd.DataFrame:
        """Return predictions of the rows that all parties have, in the order of the Host's table.

        The columns are those of the ids in the Host's table, with its cells, the scores, and the
        parties that had the row.

        Args:
            tables: the table of each party, with the columns of the training; None for the tables
                of the training.

        Raises:
            ConfigError: a party of the training has no table.
            ColumnError: a table has other columns than in the training.
        """
        return self._predicted(tables)[0]

    def _predicted(
        self, tables: Mapping[str, Location] | None
    ) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the result of `predictions`, and its scores, [rows, columns]."""
        host, partners = self._parties(self._tables if tables is None else tables, {"label": None})
        done = simulate_prediction(host, partners, task_id=self.result.task_id, models="best")
        found = done.results[host.feature_key]
        frame, scores = host.in_table_order(found), len(found.columns) - len(BESIDE_SCORES)
        return frame, frame.iloc[:, -1 - scores : -1].to_numpy(dtype=np.float64)

    def take_home(self, *, seed: int | None = None) -> TakeHome:
        """Return a model that needs the Host's columns only, made by `TabularHost.take_home`.

        Outside of one process it needs the consent of all parties; here it says what there is to
        agree on.

        Args:
            seed: the seed of its training; None draws one.

        Raises:
            ConfigError: the Host has no columns.
        """
        host, partners = self._parties(self._tables, self._labelled)
        task = self.result.task_id
        asked = functools.partial(host.take_home, task, seed=seed)
        done = simulate_prediction(host, partners, task_id=task, ask=asked)
        made: TakeHome = done.results[host.feature_key]
        return made

    def _parties(
        self, tables: Mapping[str, Location], labelled: Mapping[str, Any]
    ) -> tuple[TabularHost, list[TabularCollaborator]]:
        """Return parties with these tables that predict with the models of the training.

        Raises:
            ConfigError: a party of the training has no table.
        """
        if lost := [name for name in self._names if name not in tables]:
            raise ConfigError(f"predictions: {lost[0]!r} was in the training; give its table too")
        first, *others = self._names
        folder = self.result.folder.parents[1]
        host = TabularHost(
            first,
            tables[first],
            ids=self._ids[first],
            id_recipe=self._recipe,
            collaborators=others,
            psi_protocol="ecdh",
            results_dir=folder,
            **labelled,
        )
        partners = [
            TabularCollaborator(name, tables[name], ids=self._ids[name], results_dir=folder)
            for name in others
        ]
        return host, partners

    def predict_proba(self, tables: Mapping[str, Location] | None = None) -> NDArray[np.float64]:
        """Return the probabilities, [rows, classes], of the rows of `predictions`.

        Raises:
            ConfigError: the task predicts numbers; or see `predictions`.
        """
        if not len(self.classes_):
            raise ConfigError("predict_proba is for classes; this model predicts numbers: predict")
        scores = self._scores(tables)
        return np.column_stack([1 - scores, scores]) if scores.shape[1] == 1 else scores

    def predict(self, tables: Mapping[str, Location] | None = None) -> NDArray[Any]:
        """Return the most likely class of each row of `predictions`.

        If numbers are predicted, it returns these numbers. For several labels it returns whether
        each is more likely than not, [rows, labels].
        """
        if not len(self.classes_):
            return self._scores(tables)[:, 0]
        if next(iter(self.evaluations.values())).kind == "multilabel":
            return self._scores(tables) >= 0.5
        found: NDArray[Any] = self.classes_[self.predict_proba(tables).argmax(axis=1)]
        return found

    def _scores(self, tables: Mapping[str, Location] | None) -> NDArray[np.float64]:
        return self._predicted(tables)[1]

    # -- to look at ------------------------------------------------------------------------

    def __repr__(self) -> str:
        lines = [self._said(), self.frame().to_string(float_format="{:.4f}".format)]
        return "\n".join([*lines, str(self.worth)] if self.worth else lines)

    def _repr_html_(self) -> str:
        """Return the numbers of all models for a notebook."""
        numbers = {mode: each.metrics for mode, each in self.evaluations.items()}
        names = list(dict.fromkeys(name for each in numbers.values() for name in each))
        rows = [(name, *(_number(each.get(name)) for each in numbers.values())) for name in names]
        worth = markup.listed([str(self.worth)]) if self.worth else ""
        table = markup.table(("test rows", *numbers), rows)
        return markup.card(" and ".join(self._names), self._said(), table, worth)

    def _said(self) -> str:
        result, tested = self.result, self._tested["joint"].evaluation
        return (
            f"{tested.kind} model of {' and '.join(self._names)}: {result.ids} common rows, round"
            f" {result.best_round} of {result.rounds} kept, {tested.rows} test rows"
        )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _by_mode(host: TabularHost, simulation: Simulation) -> dict[str, Tested]:
    """Return the results on the test rows, by model."""
    folder = host.result.folder
    modes = simulation.comparison.models if simulation.comparison else {}
    folders = {"joint": folder} | {mode: folder / "baselines" / mode for mode in modes}
    found = {mode: host.tested_in(each) for mode, each in folders.items()}
    return {mode: each for mode, each in found.items() if each is not None}


def _columns_of(folder: Path) -> list[str]:
    """Return the columns on which a half was trained, from its results folder."""
    from heterofed.data.signature import read_signature

    signature = read_signature(folder)
    return [] if signature is None else list(signature.columns or ())
