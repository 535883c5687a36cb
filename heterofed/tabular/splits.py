"""Splits ids into train, validation and test parts: by ratio, label, group or time, or in k folds.

Only a split by ratio depends on nothing but the ids, so every party can compute it. If labels,
groups or times count, the party that holds them splits and announces the parts: the others learn
which ids are in which part, and nothing else.

Every row gets a position between 0 and 1: by a keyed hash, within its class, with its whole group,
or by its time. A part is an interval of positions. So the ratio is exact up to one row (or group),
and the order of the ids does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pandas as pd
from msgspec import Meta
from numpy.typing import NDArray

from heterofed.compute.packed_ids import OrderedIds, PackedIds
from heterofed.errors import ConfigError, EmptySplitError
from heterofed.tabular.objectives.values import as_series, refuse_rows

By = Literal["id", "label", "group", "time"]
Share = Annotated[float, Meta(ge=0, lt=1)]
Places = NDArray[np.float64]

_AT_ONCE = 65_536
"""The number of names that are hashed at a time, because an object for each takes much memory."""

STRATA = 10
"""The number of groups of equal size into which numbers are cut to be stratified."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The ids of each part, sorted."""

    train: list[str] = field(repr=False)
    validation: list[str] = field(repr=False)
    test: list[str] = field(repr=False)

    def pair(self) -> tuple[set[str], set[str]]:
        """Return the train ids, and those of validation and test, as `split_dataset` does."""
        return set(self.train), {*self.validation, *self.test}


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a split, as plain data that can be part of a plan and kept with a model.

    Attributes:
        by: the value by which rows are split: "id" splits at random; "label" does too, with every
            class in the same share in each part; "group" keeps all rows of one group in one part;
            "time" uses the latest rows for the test, and those before them for validation.
        test: the share of the rows that only the final test uses.
        validation: the share of the others that is used to stop training early.
        seed: the seed of the split (without effect by time).
        folds: the number of folds into which the rows are cut, and then `test` has no effect; 0 for
            one split. By time every fold is tested with a model of the earlier rows only.
        fold: the number of the fold that is the test part, from 0.
    """

    by: By = "id"
    test: Share = 0.2
    validation: Share = 0.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    folds: Annotated[int, Meta(ge=0, le=1000)] = 0
    fold: Annotated[int, Meta(ge=0, le=999)] = 0

    def check(self) -> None:
        """Check that the settings fit together.

        Raises:
            ConfigError: they do not.
        """
        try:
            msgspec.convert(msgspec.to_builtins(self), Split)
        except msgspec.ValidationError as error:
            raise ConfigError(f"split: {error}") from None
        if self.folds == 1 or (self.folds and self.fold >= self.folds):
            raise ConfigError(
                f"split: fold {self.fold} of {self.folds}: give at least 2 folds, and one of"
                " 0 to folds - 1"
            )
        if not self.folds and not self.test:
            raise ConfigError("split: test=0 leaves nothing to test on; give a share such as 0.2")

    @property
    def is_public(self) -> bool:
        """Whether ids alone decide, so that every party can compute the same parts."""
        return self.by == "id"

    def parts(self, ids: Sequence[str] | set[str], values: Any = None) -> Parts:
        """Split ids; the same ids and values give the same parts in any order, on any machine.

        The arguments and errors are those of `places`.
        """
        listed = list(ids)
        return Parts(*(sorted(listed[at] for at in each) for each in self.places(listed, values)))

    def places(
        self, ids: Sequence[str], values: Any = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the positions of the train, validation and test ids, each in ascending order.

        Args:
            ids: the unique ids.
            values: the values by which to split, for each of the ids in their order: labels (codes,
                words or numbers), groups, or times (numbers, dates, or texts with dates).

        Raises:
            ConfigError: the settings do not fit together, or the values are missing.
            ColumnError: a row has no value, or no time.
            EmptySplitError: a part would be empty.
        """
        self.check()
        if self.is_public:
            units = None
        elif values is None or len(values) != len(ids):
            raise ConfigError(f"a split by {self.by} needs one value for each of the ids")
        else:
            units = self._units(values)
        test, train = self._tested(ids, units)
        chosen = np.flatnonzero(train)
        validated = self._places(_named(ids, chosen), _some(units, chosen), "validation")
        is_validation = validated < self.validation
        found = chosen[~is_validation], chosen[is_validation], np.flatnonzero(test)
        self._must_be_filled(
            dict(zip(("train", "validation", "test"), map(len, found), strict=True))
        )
        return found

    def _tested(
        self, ids: Sequence[str], units: NDArray[Any] | None
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which rows are for the test, and which may be trained on."""
        places = self._places(ids, units, "test")
        if not self.folds:
            return places < self.test, places >= self.test
        if self.by == "time":  # positions run from the latest row to the first
            border = 1 - (self.fold + 1) / (self.folds + 1)
            return (border - 1 / (self.folds + 1) <= places) & (places < border), places >= border
        test = np.floor(places * self.folds).astype(int) == self.fold
        return test, ~test

    def _units(self, values: Any) -> NDArray[Any]:
        """Return the classes, groups or times of the rows, as values that can be sorted."""
        series = as_series(values, self.by)
        if self.by == "time":
            return _times(series)
        if self.by == "label" and pd.api.types.is_numeric_dtype(series.dtype):
            return _strata(series)
        return (
            series.astype(str).to_numpy(dtype=object) if self.by == "group" else _in_order(series)
        )

    def _places(self, ids: Sequence[str], units: NDArray[Any] | None, purpose: str) -> Places:
        """Return the position of each row, from 0 up to 1."""
        if units is None:
            places = np.empty(len(ids))
            order = np.argsort(_hashes(ids, f"heterofed tabular split {self.seed} {purpose}"))
            middles = np.arange(len(ids), dtype=np.float64)
            middles += 0.5
            middles /= max(len(ids), 1)
            places[order] = middles
            return places
        if self.by == "time":
            return _middles(-_ranks(units))
        key = f"heterofed tabular split {self.seed} {purpose}"
        if self.by == "group":
            return _middles(_ranks(_hashes(units.tolist(), key)))
        order = np.lexsort((_hashes(ids, key), units))
        within = pd.Series(units[order]).groupby(units[order])
        places = np.empty(len(ids))
        places[order] = (within.cumcount() + 0.5) / within.transform("size")
        return places

    def _must_be_filled(self, rows: dict[str, int]) -> None:
        wanted = ("train", "test", "validation") if self.validation else ("train", "test")
        for name in wanted:
            if not rows[name]:
                parts = ", ".join(f"{count} {each}" for each, count in rows.items() if count)
                raise EmptySplitError(
                    f"the split by {self.by} leaves no {name} ids ({parts}); give other shares, or"
                    " more rows" + (" or groups" if self.by == "group" else "")
                )


def _named(ids: Sequence[str], at: NDArray[np.int64]) -> Sequence[str]:
    if isinstance(ids, PackedIds):
        return OrderedIds(ids, at)
    return [ids[each] for each in at]


def _some(units: NDArray[Any] | None, at: NDArray[np.int64]) -> NDArray[Any] | None:
    return None if units is None else units[at]


def _hashes(names: Sequence[str], key: str) -> NDArray[np.uint64]:
    """Return a hash of 64 bits of each name under a key, which is the same on all machines."""
    start = hashlib.sha256(key.encode() + b"\0")

    def digest(name: str) -> bytes:
        one = start.copy()
        one.update(name.encode())
        return one.digest()[:8]

    found = np.empty(len(names), np.uint64)
    for at in range(0, len(names), _AT_ONCE):
        some = b"".join(map(digest, names[at : at + _AT_ONCE]))
        found[at : at + _AT_ONCE] = np.frombuffer(some, dtype=">u8")
    return found


def _ranks(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the rank of each value among the distinct ones."""
    ranks: NDArray[np.int64] = np.unique(values, return_inverse=True)[1]
    return ranks


def _middles(units: NDArray[np.int64]) -> Places:
    """Return the position of each row when units are laid side by side: the middle of its unit."""
    ranks = _ranks(units)
    sizes = np.bincount(ranks)
    return ((np.cumsum(sizes) - sizes / 2) / max(len(units), 1))[ranks]


def _in_order(series: pd.Series[Any]) -> NDArray[np.int64]:
    return pd.factorize(series.astype(str), sort=True)[0].astype(np.int64)


def _strata(series: pd.Series[Any]) -> NDArray[np.int64]:
    """Return classes unchanged, and many different numbers as groups of about equal size."""
    if series.nunique() <= 2 * STRATA:
        return _in_order(series)
    return _ranks(pd.qcut(series.rank(method="dense"), STRATA, labels=False).to_numpy())


def _times(series: pd.Series[Any]) -> NDArray[Any]:
    """Return times as numbers that grow."""
    if pd.api.types.is_numeric_dtype(series.dtype):
        numbers: NDArray[Any] = series.to_numpy(dtype=np.float64)
        refuse_rows(~np.isfinite(numbers), "time", "hold no finite number")
        return numbers
    times = pd.to_datetime(series, errors="coerce", utc=True)
    refuse_rows(
        times.isna(), "time", "hold no date of the form of the first row; write all dates alike"
    )
    return times.astype("int64").to_numpy()
