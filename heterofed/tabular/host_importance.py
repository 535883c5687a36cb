"""Measures at the Host, after the last round, what the columns of all parties are worth.

The arithmetic is in `heterofed.tabular.importance`; here it gets the Host's models, labels and test
rows, and its results go to the files of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from heterofed.tabular.evaluation import Table
from heterofed.tabular.host_run import HostRun
from heterofed.tabular.importance import Importance, table_of, told, written
from heterofed.tabular.objectives import Objective
from heterofed.tabular.party import Party
from heterofed.tabular.targets import Targets, unpacked
from heterofed.tabular.tested import Tested
from heterofed.tabular.worth import HEADLINE


class Run(HostRun, Protocol):
    """The public attributes of a Host that this module uses."""

    @property
    def feature_model(self) -> Any:
        """This party's half; None if it has none."""

    @property
    def final_ids(self) -> list[str]:
        """The ids that are looked at, sorted."""

    @property
    def tested(self) -> Tested | None:
        """The results on the test rows."""


class HostImportance:
    """The measurement of one run after another.

    Args:
        run: the Host's scheduler.
        party: its part of the hooks that is the same at all parties.
    """

    def __init__(self, run: Run, party: Party) -> None:
        self._run, self._party = run, party
        self._found: Importance | None = None

    def look(self, party: str, number: int, features: Any, early: Tensor, targets: Targets) -> None:
        """Take a batch of a party.

        Args:
            party: the party.
            number: the number of its batch; 0 for its features as they are.
            features: its features of the rows.
            early: whether each id that is not trained on is a validation row.
            targets: the labels and weights of the Host's rows.
        """
        if self._found is None:
            self._found = self._begin(early, targets)
        if number:
            self._found.look(party, features, self._scores_of)
        else:
            self._found.has_whole(party, features)

    def end(self) -> dict[str, list[float]]:
        """Measure this party's own columns, keep all results, and return what others are told."""
        found, self._found = self._found, None
        if found is None:
            return {}
        own = () if self._run.feature_model is None else self._own_batches()
        for number, features in enumerate(own):
            if number:
                found.look(self._run.feature_key, features, self._scores_of)
        self._keep(found)
        others = {name: each for name, each in found.drops.items() if name != self._run.feature_key}
        return {name: told(each) for name, each in others.items()}

    def _keep(self, found: Importance) -> None:
        """Write the results, by name of the column for this party's own ones."""
        result, tested = self._run.result, self._run.tested
        table = table_of(found.drops, self._run.feature_key, self._party.prepared_columns())
        result.metrics["importance"] = written(result.folder, table)
        if tested is not None:
            columns = ("party", "column", HEADLINE[tested.evaluation.kind])
            rows = tuple(table.itertuples(index=False, name=None))
            tested.evaluation.tables["importance"] = Table(columns, rows)
            tested.save(result.folder)

    def _own_batches(self) -> Iterator[Any]:
        half = self._run.feature_model
        for batch in self._party.permuted_batches(half, self._run.final_ids):
            yield half(batch.inputs)

    def _begin(self, early: Tensor, targets: Targets) -> Importance:
        run, ids = self._run, self._run.final_ids
        is_early = dict(zip(run.test_ids, early.tolist(), strict=True))
        rows = torch.tensor([not is_early[each] for each in ids])
        (batch,) = self._party.table.batches(ids, len(ids))
        labels, weights = unpacked(targets.of_rows(batch.rows))
        weights = torch.ones(len(labels)) if weights is None else weights
        found = Importance(
            self._objective.kind,
            rows,
            labels[rows].double().numpy(),
            weights[rows].double().numpy(),
        )
        if run.feature_model is not None:
            found.has_whole(run.feature_key, run.feature_model(batch.inputs))
        return found

    def _scores_of(self, projection: dict[str, Any]) -> Tensor:
        ordered = {name: projection[name] for name in self._run.parties if name in projection}
        return self._objective.scores(self._run.infer_model(ordered))

    @property
    def _objective(self) -> Objective:
        objective: Objective = self._run.infer_model.plan.objective
        return objective
