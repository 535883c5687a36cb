"""Splits: exact shares, whole groups, no look ahead in time, the same in any order."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from heterofed.errors import ColumnError, ConfigError, EmptySplitError
from heterofed.tabular.splits import Split

IDS = [f"p{n:04}" for n in range(1000)]
RANDOM = random.Random(1)
LABELS = [RANDOM.random() < 0.1 for _ in IDS]
GROUPS = [RANDOM.randrange(100) for _ in IDS]
TIMES = [RANDOM.randrange(10**6) for _ in IDS]
VALUES: dict[str, Any] = {"id": None, "label": LABELS, "group": GROUPS, "time": TIMES}


@pytest.mark.parametrize("by", VALUES)
def test_shares_order_and_disjoint(by: Any) -> None:
    split = Split(by=by, test=0.2, validation=0.25)
    parts = split.parts(IDS, VALUES[by])
    all_ids = [*parts.train, *parts.validation, *parts.test]
    assert sorted(all_ids) == IDS
    slack = 30 if by == "group" else 2
    assert abs(len(parts.test) - 200) <= slack
    assert abs(len(parts.validation) - 200) <= slack
    order = RANDOM.sample(range(1000), 1000)
    values = VALUES[by] and [VALUES[by][at] for at in order]
    assert split.parts([IDS[at] for at in order], values) == parts
    if by != "time":
        other = Split(by=by, test=0.2, validation=0.25, seed=1)
        assert other.parts(IDS, VALUES[by]) != parts
    assert parts.pair() == (set(parts.train), {*parts.test, *parts.validation})
    assert "p0" not in repr(parts)


def test_only_ids_count_where_each_party_splits_by_itself() -> None:
    assert [Split(by=by).is_public for by in ("id", "label", "group", "time")] == [
        True,
        False,
        False,
        False,
    ]
    assert Split().parts(set(IDS)) == Split().parts(IDS)


def test_every_class_has_its_share_in_each_part() -> None:
    parts = Split(by="label", validation=0.2).parts(IDS, LABELS)
    rate = dict(zip(IDS, LABELS, strict=True))
    for part in (parts.train, parts.validation, parts.test):
        held = sum(rate[each] for each in part) / len(part)
        assert held == pytest.approx(sum(LABELS) / 1000, abs=0.01)
    words = np.where(LABELS, "yes", "no")
    assert Split(by="label").parts(IDS, words).test != Split().parts(IDS).test


def test_numbers_are_stratified_by_size() -> None:
    amounts = np.exp(np.random.default_rng(0).normal(size=1000))
    of = dict(zip(IDS, amounts, strict=True))
    parts = Split(by="label").parts(IDS, amounts)
    tested = sorted(of[each] for each in parts.test)
    quantiles = np.quantile(amounts, [0.1, 0.5, 0.9])
    assert np.searchsorted(tested, quantiles) == pytest.approx([20, 100, 180], abs=6)


def test_groups_stay_whole() -> None:
    parts = Split(by="group", validation=0.2).parts(IDS, GROUPS)
    of = dict(zip(IDS, GROUPS, strict=True))
    held = [{of[each] for each in part} for part in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, held)) == len(set(GROUPS))


@pytest.mark.parametrize("folds", [0, 4])
@pytest.mark.parametrize("form", ["number", "date", "text"])
def test_nothing_is_trained_on_what_comes_later(form: str, folds: int) -> None:
    dates = pd.to_datetime(pd.Series(TIMES), unit="s")
    values = {"number": TIMES, "date": dates, "text": dates.dt.strftime("%d/%m/%Y %H:%M:%S")}[form]
    of = dict(zip(IDS, TIMES, strict=True))
    for fold in range(folds or 1):
        split = Split(by="time", validation=0.2, folds=folds, fold=fold)
        parts = split.parts(IDS, values)
        ends = [
            (min(of[each] for each in part), max(of[each] for each in part))
            for part in (parts.train, parts.validation, parts.test)
        ]
        assert ends[0][1] < ends[1][0]
        assert ends[1][1] < ends[2][0]
        if folds:
            assert abs(len(parts.test) - 200) <= 1


def test_rows_of_one_time_are_in_one_part() -> None:
    days = [each // 100_000 for each in TIMES]
    of = dict(zip(IDS, days, strict=True))
    parts = Split(by="time").parts(IDS, days)
    assert not {of[each] for each in parts.train} & {of[each] for each in parts.test}


@pytest.mark.parametrize("by", ["id", "label", "group"])
def test_folds_test_each_row_once(by: Any) -> None:
    tested = [Split(by=by, folds=5, fold=at).parts(IDS, VALUES[by]) for at in range(5)]
    assert sorted(each for parts in tested for each in parts.test) == IDS
    for parts in tested:
        assert not set(parts.train) & set(parts.test)
        assert len(parts.train) + len(parts.test) == 1000


@pytest.mark.parametrize(
    ("settings", "ids", "values", "error"),
    [
        ({"by": "label"}, IDS, None, ConfigError),
        ({"by": "label"}, IDS, [1, 0], ConfigError),
        ({"by": "luck"}, IDS, None, ConfigError),
        ({"test": 1.0}, IDS, None, ConfigError),
        ({"test": 0.0}, IDS, None, ConfigError),
        ({"test": "half"}, IDS, None, ConfigError),
        ({"folds": 1}, IDS, None, ConfigError),
        ({"folds": 3, "fold": 3}, IDS, None, ConfigError),
        ({}, ["a"], None, EmptySplitError),
        ({"validation": 0.01}, IDS[:10], None, EmptySplitError),
        ({"by": "group"}, IDS[:4], ["x"] * 4, EmptySplitError),
        ({"by": "group"}, IDS[:2], ["x", None], ColumnError),
        ({"by": "time"}, IDS[:2], ["2024-01-01", "soon"], ColumnError),
        ({"by": "time"}, IDS[:2], [1.0, float("inf")], ColumnError),
    ],
)
def test_what_cannot_be_split_is_refused(settings: Any, ids: Any, values: Any, error: Any) -> None:
    with pytest.raises(error):
        Split(**settings).parts(ids, values)


def test_a_split_is_plain_data() -> None:
    split = Split(by="time", folds=3, fold=1)
    assert msgspec.json.decode(msgspec.json.encode(split), type=Split) == split


def test_known_parts_stay_as_they_are() -> None:
    """A model that is predicted with later, or another version at a partner, must split alike."""
    ids = [f"c{n}" for n in range(12)]
    assert Split(test=0.25).parts(ids).test == KNOWN


KNOWN = ["c1", "c6", "c9"]
