"""Defines the step for lists of a few different tags, with a number for each tag."""

from __future__ import annotations

from typing import Any

import msgspec
import pandas as pd

from heterofed.tabular.prepare.tokens import long
from heterofed.tabular.prepare.work import Work


class SpreadTags(msgspec.Struct, tag="spread_tags"):
    """Makes a numeric column for each tag, if a column of tags has a few different ones.

    The steps for numbers use these columns. In a row without a tag its number is 0, and for a tag
    without a number it is 1. FATE and LIBSVM write tables of numbers as such lists: `x1:0.5 x7:2`.

    Args:
        most: the most tags of a column; a column with more is left to `Tags`.
        min_count: the number of train rows that a tag needs to be known; other tags are ignored.
        columns: the columns of the step; None for all of kind tags.
    """

    most: int = 256
    min_count: int = 2
    columns: list[str] | None = None
    tags: dict[str, list[str]] = {}

    def fit(self, work: Work) -> SpreadTags:
        """Return the step with the tags that occur in the train rows."""
        chosen = work.chosen(self.columns, ["tags"], "SpreadTags")
        known = {name: self._known(work.columns[name]) for name in chosen}
        few = {name: tags for name, tags in known.items() if 0 < len(tags) <= self.most}
        return msgspec.structs.replace(self, tags=few)

    def apply(self, work: Work) -> None:
        """Make the columns of these rows."""
        for name, tags in self.tags.items():
            lines = long(work.take(name))
            lines = lines[lines["tag"].isin(tags)]
            # A tag that occurs twice in a row counts twice, as in a bag of tags.
            wide = lines.pivot_table(index="row", columns="tag", values="number", aggfunc="sum")
            wide = wide.reindex(index=pd.RangeIndex(work.rows), columns=tags).fillna(0.0)
            for tag in tags:
                work.columns[f"{name}: {tag}"] = wide[tag]
                work.kinds[f"{name}: {tag}"] = "numeric"

    def _known(self, column: pd.Series[Any]) -> list[str]:
        counts = long(column)["tag"].value_counts()
        return sorted(map(str, counts.index[counts.to_numpy() >= self.min_count]))
