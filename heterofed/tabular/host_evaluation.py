"""Evaluates the model of each round at the Host, stops training early, and keeps the results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from heterofed.tabular.evaluation import Evaluation, Table, evaluate
from heterofed.tabular.host_run import HostRun
from heterofed.tabular.ids import unmarked
from heterofed.tabular.objectives import Objective
from heterofed.tabular.own_ids import ids_as_written
from heterofed.tabular.table import LocalTable
from heterofed.tabular.targets import EarlyStopping, Rows, Targets, unpacked
from heterofed.tabular.tested import Tested
from heterofed.tabular.worth import HEADLINE, MOST_PARTIES, party_shares


class Run(HostRun, Protocol):
    """The public attributes and methods of a Host that this module uses."""

    @property
    def current_round(self) -> int:
        """The number of the current round, from 1."""

    def get_metrics(self, name: str) -> Any:
        """Return a set of metrics."""

    def mark_best(self) -> None:
        """Keep the weights of this round as the best."""

    def is_task_finished(self) -> bool:
        """Return whether no further round follows."""


class HostEvaluation:
    """The evaluation of one run after another.

    Args:
        run: the Host's scheduler.
        table: its table.
        patience: see `TabularHost`.
        has_shares: whether the contribution of each party is computed.

    Attributes:
        stopping: decides when to stop.
        early: whether each id that is not trained on is a validation row, in sorted order.
        targets: the labels and weights of the Host's rows, of a run that trains.
    """

    targets: Targets

    def __init__(self, run: Run, table: LocalTable, patience: int, *, has_shares: bool) -> None:
        self._run, self._table = run, table
        self._has_shares = has_shares
        self._shares: dict[str, float] = {}
        self.stopping = EarlyStopping(patience)
        self.early = self._tested = torch.zeros(0)
        self._ended: dict[Path, Tested] = {}

    def tested_in(self, folder: Path) -> Tested | None:
        """Return the results of a run by its results folder; None before its end."""
        return self._ended.get(folder)

    def test(self, projections: Sequence[dict[str, Any]], batched_labels: Sequence[Rows]) -> None:
        """Evaluate the validation rows in each round, and the test rows if the model is the best so
        far.

        The results on the test rows are reported when no better model can follow.
        """
        run, objective = self._run, self._objective
        outputs = torch.cat([run.infer_model(each) for each in projections])
        rows = [unpacked(each) for each in batched_labels]
        labels = torch.cat([label for label, _ in rows])
        weights = torch.cat(
            [torch.ones(len(label)) if weight is None else weight for label, weight in rows]
        )
        early = self.early
        loss = float(objective.loss(outputs[early], labels[early], weights[early]))
        found = self._judged(outputs[early], labels[early], weights[early]).metrics
        self._append("validation", {"loss": loss} | dict(itertools.islice(found.items(), 2)))
        if self.stopping.note(loss, run.current_round):
            run.mark_best()
            self._tested = outputs[~early]
            if self._has_shares and len(run.parties) <= MOST_PARTIES + 1:
                self._shares = party_shares(
                    objective.kind,
                    lambda each: objective.scores(run.infer_model(each)),
                    projections,
                    labels,
                    host=run.feature_key,
                    weights=weights * ~early,
                )
        if run.is_task_finished():
            self._end(labels[~early], weights[~early])

    def state(self) -> dict[str, Any]:
        """Return the state for checkpoints."""
        kept = {"early": self.early, "tested": self._tested, "shares": self._shares}
        return {"stopping": self.stopping.state()} | kept

    def load(self, state: dict[str, Any]) -> None:
        """Restore a result of `state`."""
        self.stopping.load(state["stopping"])
        self.early, self._tested = state["early"], state["tested"]
        self._shares = state["shares"]

    def _end(self, labels: Tensor, weights: Tensor) -> None:
        """Report and keep the evaluation of the best round's model."""
        run, table = self._run, self._table
        found = self._judged(self._tested, labels, weights)
        if self._shares:
            rows = tuple(self._shares.items())
            found.tables["shares"] = Table(("party", HEADLINE[found.kind]), rows)
        self._append("test", {"rows": found.rows} | found.metrics)
        ids = [each for each, early in zip(run.test_ids, self.early, strict=True) if not early]
        scores = self._objective.scores(self._tested)
        known = weights.double().numpy() if self.targets.weighed else None
        truth, scored = labels.double().numpy(), scores.double().numpy()
        written = ids_as_written(table.source, table.id_columns, table.positions(ids))
        tested = Tested([unmarked(each) for each in ids], truth, scored, known, found, written)
        tested.save(run.result.folder)
        self._ended[run.result.folder] = tested

    def _judged(self, outputs: Tensor, labels: Tensor, weights: Tensor) -> Evaluation:
        objective = self._objective
        return evaluate(
            objective.kind,
            labels,
            objective.scores(outputs),
            weights if self.targets.weighed else None,
            classes=objective.classes,
        )

    def _append(self, name: str, row: dict[str, float]) -> None:
        metrics = self._run.get_metrics(name)
        metrics.widen(row)
        metrics.append_metrics_item(dict.fromkeys(metrics.keys, math.nan) | row)

    @property
    def _objective(self) -> Objective:
        objective: Objective = self._run.infer_model.plan.objective
        return objective
