"""Defines steps for categories: a number for each of a few, or an embedding for each of many.

Categories that are rare in the train rows, and those that never occur there, are treated as one
category. So the model learns what to do with a category that it does not know.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd

from heterofed.tabular.prepare.inputs import Table
from heterofed.tabular.prepare.values import words
from heterofed.tabular.prepare.work import Array, Work

OTHER, MISSING, FIRST = 0, 1, 2
"""The codes of rare or unseen categories, of missing values, and of the first known category."""


class OneHot(msgspec.Struct, tag="one_hot"):
    """Encodes categories as numbers of 0 and 1, one for each, for rare or unseen ones, and for
    missing values.

    Args:
        min_count: the number of train rows that a category needs to be known.
        max_categories: the most categories that are known, the frequent ones first.
        columns: the columns of the step; None for all of kind category.
    """

    min_count: int = 5
    max_categories: int = 30
    columns: list[str] | None = None
    categories: dict[str, list[str]] = {}

    def fit(self, work: Work) -> OneHot:
        """Return the step, fitted on the train rows."""
        return msgspec.structs.replace(self, categories=_learnt(self, work))

    def apply(self, work: Work) -> None:
        """Encode the columns of these rows."""
        for name, known in self.categories.items():
            codes = _codes(work.take(name), known)
            work.dense[f"{name} is another"] = (codes == OTHER).astype(np.float32)
            work.dense[f"{name} is missing"] = (codes == MISSING).astype(np.float32)
            for at, category in enumerate(known):
                work.dense[f"{name} is {category!r}"] = (codes == FIRST + at).astype(np.float32)


class Embed(msgspec.Struct, tag="embed"):
    """Encodes categories as embeddings, one for each, for rare or unseen ones, and for missing
    values.

    Args:
        width: the width of an embedding.
        min_count: the number of train rows that a category needs to be known.
        max_categories: the most categories that are known, the frequent ones first.
        columns: the columns of the step; None for all of kind category.
    """

    width: int = 8
    min_count: int = 5
    max_categories: int = 100_000
    columns: list[str] | None = None
    categories: dict[str, list[str]] = {}

    def fit(self, work: Work) -> Embed:
        """Return the step, fitted on the train rows."""
        return msgspec.structs.replace(self, categories=_learnt(self, work))

    def apply(self, work: Work) -> None:
        """Encode the columns of these rows."""
        columns = [_codes(work.take(name), known) for name, known in self.categories.items()]
        if columns:
            work.codes[self.group] = np.stack(columns, axis=1)

    @property
    def group(self) -> str:
        """The name of its table of embeddings; the columns of two steps have two tables."""
        return next(iter(self.categories), "")

    @property
    def table(self) -> Table:
        """Return its table of embeddings."""
        sizes = tuple(FIRST + len(known) for known in self.categories.values())
        return Table(sizes, self.width)


def _learnt(step: OneHot | Embed, work: Work) -> dict[str, list[str]]:
    chosen = work.chosen(step.columns, ["category"], type(step).__name__)
    return {
        name: _known(work.columns[name], step.min_count, step.max_categories) for name in chosen
    }


def _known(column: pd.Series[Any], min_count: int, most: int) -> list[str]:
    counts = words(column).value_counts(sort=True)
    names = counts.index[counts.to_numpy() >= min_count][:most]
    return sorted(map(str, names))


def _codes(column: pd.Series[Any], known: list[str]) -> Array:
    text = words(column)
    codes = pd.Index(known, dtype=object).get_indexer(pd.Index(text, dtype=object)) + FIRST
    codes[codes == FIRST - 1] = OTHER
    codes[text.isna().to_numpy()] = MISSING
    return codes.astype(np.int64)
