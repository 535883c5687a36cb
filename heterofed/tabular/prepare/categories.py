"""Steps for categories: a number for each of a few, an embedding for each of many.

Categories that are rare in the train rows, and ones that were never seen, are one category: the
model has learnt what it is like to meet one that it knows nothing of.
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
"""Codes of what is rare or unseen, of what is missing, and of the first known category."""


class OneHot(msgspec.Struct, tag="one_hot"):
    """A number of 0 and 1 for each category, for what is rare or unseen, and for what is missing.

    Args:
        min_count: train rows that a category needs to be known.
        max_categories: most categories that are known, the frequent ones first.
        columns: which; None: all of kind category.
    """

    min_count: int = 5
    max_categories: int = 30
    columns: list[str] | None = None
    categories: dict[str, list[str]] = {}

    def fit(self, work: Work) -> OneHot:
        """The step with what it learns from the train rows."""
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
    """Learnt numbers for each category, for what is rare or unseen, and for what is missing.

    Args:
        width: numbers of an embedding.
        min_count: train rows that a category needs to be known.
        max_categories: most categories that are known, the frequent ones first.
        columns: which; None: all of kind category.
    """

    width: int = 8
    min_count: int = 5
    max_categories: int = 100_000
    columns: list[str] | None = None
    categories: dict[str, list[str]] = {}

    def fit(self, work: Work) -> Embed:
        """The step with what it learns from the train rows."""
        return msgspec.structs.replace(self, categories=_learnt(self, work))

    def apply(self, work: Work) -> None:
        """Encode the columns of these rows."""
        columns = [_codes(work.take(name), known) for name, known in self.categories.items()]
        if columns:
            work.codes[self.group] = np.stack(columns, axis=1)

    @property
    def group(self) -> str:
        """The name of its table of embeddings: columns of two steps have two."""
        return next(iter(self.categories), "")

    @property
    def table(self) -> Table:
        """Its table of embeddings."""
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
