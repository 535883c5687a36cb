"""The step for lists of few different tags: a number for each tag."""

from __future__ import annotations

from typing import Any

import msgspec
import pandas as pd

from heterofed.tabular.prepare.tokens import long
from heterofed.tabular.prepare.work import Work


class SpreadTags(msgspec.Struct, tag="spread_tags"):
    """A numeric column for each tag, where a column of tags has few different ones; the steps for
    numbers take these columns. In a row without a tag its number is 0, and without a number 1.

    Such lists are how FATE and LIBSVM write tables of numbers: `x1:0.5 x7:2`.

    Args:
        most: most tags of a column; one that has more is left to `Tags`.
        min_count: train rows that a tag needs to be known; others count for nothing.
        columns: which; None: all of kind tags.
    """

    most: int = 256
    min_count: int = 2
    columns: list[str] | None = None
    tags: dict[str, list[str]] = {}

    def fit(self, work: Work) -> SpreadTags:
        """The step with the tags that it has met in the train rows."""
        chosen = work.chosen(self.columns, ["tags"], "SpreadTags")
        known = {name: self._known(work.columns[name]) for name in chosen}
        few = {name: tags for name, tags in known.items() if 0 < len(tags) <= self.most}
        return msgspec.structs.replace(self, tags=few)

    def apply(self, work: Work) -> None:
        """Make the columns of these rows."""
        for name, tags in self.tags.items():
            lines = long(work.take(name))
            lines = lines[lines["tag"].isin(tags)]
            # A tag that comes twice in a row counts twice, as in a bag of tags.
            wide = lines.pivot_table(index="row", columns="tag", values="number", aggfunc="sum")
            wide = wide.reindex(index=pd.RangeIndex(work.rows), columns=tags).fillna(0.0)
            for tag in tags:
                work.columns[f"{name}: {tag}"] = wide[tag]
                work.kinds[f"{name}: {tag}"] = "numeric"

    def _known(self, column: pd.Series[Any]) -> list[str]:
        counts = long(column)["tag"].value_counts()
        return sorted(map(str, counts.index[counts.to_numpy() >= self.min_count]))
