"""Holds the results on the test rows: labels, scores and their evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from heterofed.errors import ConfigError
from heterofed.reporting.results import write_whole
from heterofed.tabular.evaluation import Evaluation
from heterofed.tabular.written import csv_of

Floats = NDArray[np.float64]

EVALUATION, SCORES = "evaluation.json", "scores.csv"


@dataclass(frozen=True, slots=True)
class Tested:
    """The test rows of one run, with the scores of the best round's model.

    Attributes:
        ids: the ids of the rows, as they were matched.
        labels, scores: labels and scores as `evaluate` takes them.
        weights: the weights of the rows; None if the table has none.
        evaluation: the evaluation of the scores.
        written: the columns of the ids as the table writes them.
    """

    ids: list[str]
    labels: Floats
    scores: Floats
    weights: Floats | None
    evaluation: Evaluation
    written: pd.DataFrame

    def save(self, folder: Path) -> None:
        """Write `evaluation.json`, and `scores.csv` with a line for each row.

        The columns of the ids come last there, unless they are the column `id` already.
        """
        text = json.dumps({"on": "test"} | self.evaluation.to_dict(), indent=2)
        write_whole(folder / EVALUATION, lambda file: file.write(text.encode()))
        columns: dict[str, Any] = {"id": self.ids}
        columns |= _named("label", self.labels) | _named("score", self.scores)
        if self.weights is not None:
            columns["weight"] = self.weights
        frame = pd.DataFrame(columns)
        own = self.written
        if list(own.columns) != ["id"] or own["id"].astype(str).tolist() != self.ids:
            frame = pd.concat([frame, own], axis=1)
        rows = csv_of(frame)
        write_whole(folder / SCORES, lambda file: file.write(rows))


def scores_in(folder: Path) -> dict[str, Any]:
    """Return the scores of the test rows of a run by id: a number, or an array of several.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        frame = pd.read_csv(folder / SCORES, dtype={"id": str}, keep_default_na=False)
        names = [name for name in frame.columns if name.partition(" ")[0] == "score"]
        values = frame[names].to_numpy(np.float64)
        return dict(zip(frame["id"], values if len(names) > 1 else values[:, 0], strict=True))
    except (OSError, ValueError, LookupError):
        raise ConfigError(f"{folder / SCORES} cannot be read; train again") from None


def _named(name: str, values: Floats) -> dict[str, Floats]:
    if values.ndim == 1:
        return {name: values}
    return {f"{name} {at}": column for at, column in enumerate(values.T)}
