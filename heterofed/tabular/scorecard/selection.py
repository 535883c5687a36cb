"""Selects columns by their information value and by their similarity to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from heterofed.tabular.scorecard.binning import bin_column
from heterofed.tabular.scorecard.evidence import Evidence, evidence
from heterofed.tabular.scorecard.relations import variance_inflation


@dataclass(frozen=True, slots=True)
class Selection:
    """The columns that are kept, and the reasons why the others are not.

    Attributes:
        kept: the names of the kept columns, with the most informative first.
        dropped: the reason by name of each dropped column.
        evidence: the evidence by name of every column that could be cut.
    """

    kept: tuple[str, ...]
    dropped: dict[str, str]
    evidence: dict[str, Evidence]

    def table(self) -> pd.DataFrame:
        """Return a row for each column, with its information value and the decision."""
        return pd.DataFrame(
            [
                {
                    "column": name,
                    "iv": found.iv,
                    "strength": found.strength,
                    "kept": name in self.kept,
                    "why": self.dropped.get(name, ""),
                }
                for name, found in self.evidence.items()
            ]
        ).sort_values("iv", ascending=False, ignore_index=True)

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the kept columns as weights of evidence, for a logistic model."""
        return pd.DataFrame(
            {name: self.evidence[name].transform(frame[name]) for name in self.kept},
            index=frame.index,
        )


def select(
    frame: pd.DataFrame,
    labels: Any,
    weights: Any = None,
    *,
    label_keeping: float = 1.0,
    least_iv: float = 0.02,
    most_iv: float | None = None,
    most_correlation: float = 0.9,
    most_vif: float | None = None,
    most: int = 6,
    monotonic: bool = False,
) -> Selection:
    """Choose columns as scorecards do; use train rows only.

    Columns are taken by falling information value and dropped if it is out of range, or if their
    weights of evidence are too similar to a kept column's. Then columns of too large variance
    inflation are dropped, the largest first.

    Args:
        frame: one party's columns.
        labels: the labels 0 and 1, either this party's own or randomised ones.
        weights: the sample weights.
        label_keeping: the same as in `evidence`.
        least_iv: the smallest information value.
        most_iv: the largest one; a column above it may leak the label. None sets no limit.
        most_correlation: the largest absolute correlation with a kept column.
        most_vif: the largest variance inflation factor; None sets no limit.
        most: the most bins of a column.
        monotonic: the same as in `bin_column`.

    Raises:
        ColumnError, ConfigError: the same as in `bin_column` and `evidence`.
    """
    found, dropped = {}, {}
    for name in map(str, frame.columns):
        if frame[name].isna().all():
            dropped[name] = "it has no value"
            continue
        bins = bin_column(frame[name], labels, weights, column=name, most=most, monotonic=monotonic)
        found[name] = evidence(bins, frame[name], labels, weights, label_keeping=label_keeping)
    woe = pd.DataFrame({name: each.transform(frame[name]) for name, each in found.items()})
    kept: list[str] = []
    for name in sorted(found, key=lambda each: (-found[each].iv, each)):
        if found[name].iv < least_iv:
            dropped[name] = f"information value {found[name].iv:.3f}, below {least_iv}"
        elif most_iv is not None and found[name].iv > most_iv:
            dropped[name] = f"information value {found[name].iv:.3f}, above {most_iv}: a leak?"
        elif twin := _twin(woe, name, kept, most_correlation):
            dropped[name] = f"tells what {twin!r} tells (correlation above {most_correlation})"
        else:
            kept.append(name)
    while most_vif is not None and len(kept) > 1:
        factors = variance_inflation(woe[kept])
        worst = str(factors.idxmax())
        if factors[worst] <= most_vif:
            break
        kept.remove(worst)
        dropped[worst] = f"variance inflation factor {factors[worst]:.1f}, above {most_vif}"
    return Selection(tuple(kept), dropped, found)


def _twin(woe: pd.DataFrame, name: str, kept: list[str], most: float) -> str | None:
    """Return a kept column whose weights of evidence are nearly those of a column, if there is
    one.
    """
    if not kept or woe[name].nunique() < 2:
        return None
    like = woe[kept].corrwith(woe[name]).abs()
    return str(like.idxmax()) if like.max() > most else None
