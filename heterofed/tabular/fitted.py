"""`fit`: all parties of a tabular task in one process, for a notebook; its result can be looked at.

To try out what a joint model would be worth, where all tables may lie on one machine. Nothing is
different from separate processes but that nobody is far away.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from heterofed import ConfigError, TaskResult, simulate, simulate_prediction
from heterofed.simulation.one_graph import Mode
from heterofed.simulation.simulate import Simulation
from heterofed.tabular.collaborator import TabularCollaborator
from heterofed.tabular.evaluation import Evaluation
from heterofed.tabular.host import TabularHost
from heterofed.tabular.prepare import Step
from heterofed.tabular.table import Location
from heterofed.tabular.tested import Tested
from heterofed.tabular.worth import Worth, worth

Names = str | Sequence[str]


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
        tables: by party, the Host's first: paths, addresses of databases, or DataFrames.
        ids: the column that holds the ids, or several; by party where their names differ.
        label: the column of the label in the Host's table, or several.
        columns: by party, the columns to learn from; all others where a party is not named.
        prepare: by party, the steps that prepare its columns.
        baselines: what to train for comparison: "local" (the Host's columns alone), "pooled" (one
            model of all columns), or both.
        task_id: names the results folder; None makes one up.
        seed: repeats a run.
        results_dir: parent of the results folder.
        settings: further ones of `TabularHost`, such as `model`, `max_rounds` or `kind`.

    Raises:
        ConfigError: fewer than two tables, a party of which no columns of ids are known, or
            settings that cannot be.
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
    task = task_id or f"fit-{secrets.token_hex(3)}"
    done = simulate(host, collaborators, task_id=task, baselines=baselines)
    return Fitted(host, dict(tables), known, done)


class Fitted:
    """A joint model that `fit` has trained.

    Args:
        host: after the run.
        tables: by party.
        ids: columns of the ids, by party.
        simulation: what came of the run.

    Attributes:
        classes_: the classes in the order of the columns of `predict_proba`; none of numbers.
        feature_names_in_: names of the columns that the model reads, by party.
        simulation: what came of the run at each party, with the baselines' files.
    """

    def __init__(
        self,
        host: TabularHost,
        tables: Mapping[str, Location],
        ids: Mapping[str, Names],
        simulation: Simulation,
    ) -> None:
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
        """What came of the run at the Host: rounds, files, seconds and bytes."""
        result: TaskResult = self.simulation.results[self._names[0]]
        return result

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """How good each model is on the test rows: `joint`, and the baselines."""
        return {mode: each.evaluation for mode, each in self._tested.items()}

    @property
    def worth(self) -> Worth | None:
        """What the partners are worth: joint against local; None without that baseline."""
        if "local" not in self._tested:
            return None
        joint, local = self._tested["joint"], self._tested["local"]
        kind = joint.evaluation.kind
        return worth(kind, joint.labels, joint.scores, local.scores, joint.weights)

    def frame(self) -> pd.DataFrame:
        """The numbers of all models, a column for each."""
        numbers = {mode: each.metrics for mode, each in self.evaluations.items()}
        return pd.DataFrame(numbers)

    # -- predictions -----------------------------------------------------------------------

    def predictions(self, tables: Mapping[str, Location] | None = None) -> pd.DataFrame:
        """Predictions of the rows that all parties have, in the order of the Host's table: `id`,
        the scores, and which parties had the row.

        Args:
            tables: by party, with the columns of the training; None: the tables of the training.

        Raises:
            ConfigError: a party of the training has no table.
            ColumnError: a table has other columns than in the training.
        """
        tables = self._tables if tables is None else tables
        if lost := [name for name in self._names if name not in tables]:
            raise ConfigError(f"predictions: {lost[0]!r} was in the training; give its table too")
        first, *others = self._names
        folder = self.result.folder.parents[1]
        host = TabularHost(
            first,
            tables[first],
            ids=self._ids[first],
            id_recipe=self._recipe,
            label=None,
            collaborators=others,
            psi_protocol="ecdh",
            results_dir=folder,
        )
        partners = [
            TabularCollaborator(name, tables[name], ids=self._ids[name], results_dir=folder)
            for name in others
        ]
        done = simulate_prediction(host, partners, task_id=self.result.task_id, models="best")
        return host.in_table_order(done.results[first])

    def predict_proba(self, tables: Mapping[str, Location] | None = None) -> NDArray[np.float64]:
        """Probabilities, [rows, classes], of the rows of `predictions`.

        Raises:
            ConfigError: the task is one of numbers; or see `predictions`.
        """
        if not len(self.classes_):
            raise ConfigError("predict_proba is for classes; this model predicts numbers: predict")
        scores = self._scores(tables)
        return np.column_stack([1 - scores, scores]) if scores.shape[1] == 1 else scores

    def predict(self, tables: Mapping[str, Location] | None = None) -> NDArray[Any]:
        """The likeliest class of each row of `predictions`; the number, where they are numbers;
        of several labels, [rows, labels], whether each is more likely than not.
        """
        if not len(self.classes_):
            return self._scores(tables)[:, 0]
        if next(iter(self.evaluations.values())).kind == "multilabel":
            return self._scores(tables) >= 0.5
        found: NDArray[Any] = self.classes_[self.predict_proba(tables).argmax(axis=1)]
        return found

    def _scores(self, tables: Mapping[str, Location] | None) -> NDArray[np.float64]:
        frame = self.predictions(tables).drop(columns=["id", "parties"])
        return frame.to_numpy(dtype=np.float64)

    # -- to look at ------------------------------------------------------------------------

    def __repr__(self) -> str:
        lines = [self._said(), self.frame().to_string(float_format="{:.4f}".format)]
        return "\n".join([*lines, str(self.worth)] if self.worth else lines)

    def _repr_html_(self) -> str:
        table = self.frame().to_html(float_format="{:.4f}".format)
        worth = f"<p>{self.worth}</p>" if self.worth else ""
        return f"<p>{self._said()}</p>{table}{worth}"

    def _said(self) -> str:
        result, tested = self.result, self._tested["joint"].evaluation
        return (
            f"{tested.kind} model of {' and '.join(self._names)}: {result.ids} common rows, round"
            f" {result.best_round} of {result.rounds} kept, {tested.rows} test rows"
        )


def _by_mode(host: TabularHost, simulation: Simulation) -> dict[str, Tested]:
    """What the test rows have shown, by model."""
    folder = host.result.folder
    modes = simulation.comparison.models if simulation.comparison else {}
    folders = {"joint": folder} | {mode: folder / "baselines" / mode for mode in modes}
    found = {mode: host.tested_in(each) for mode, each in folders.items()}
    return {mode: each for mode, each in found.items() if each is not None}


def _columns_of(folder: Path) -> list[str]:
    """Columns that a half was trained on, as its results folder tells."""
    from heterofed.data.signature import read_signature

    signature = read_signature(folder)
    return [] if signature is None else list(signature.columns or ())
