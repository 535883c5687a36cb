"""Scorecards: bins, weights of evidence, turned labels, and the choice of columns."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression

from heterofed.errors import ColumnError, ConfigError
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.tabular.scorecard import (
    Bins,
    bin_column,
    correlations,
    evidence,
    select,
    variance_inflation,
)

RANDOM = np.random.default_rng(2)
ROWS = 4000
AGE = RANDOM.uniform(20, 70, ROWS).round(1)
TRUTH = (RANDOM.random(ROWS) < np.where(AGE < 30, 0.6, np.where(AGE < 50, 0.3, 0.1))).astype(int)


def test_numbers_are_cut_where_the_rate_changes() -> None:
    bins = bin_column(AGE, TRUTH, column="age", most=3)
    assert bins.borders == pytest.approx((30, 50), abs=1)
    assert bins.names[0].startswith("up to 2")
    codes = bins.codes([25, bins.borders[0], 40, 60, None])
    assert codes.tolist() == [0, 0, 1, 2, 3]
    assert bins.names[codes[-1]] == "missing"
    assert msgspec.json.decode(msgspec.json.encode(bins), type=Bins) == bins


def test_without_labels_bins_are_of_equal_size() -> None:
    bins = bin_column(AGE, most=5)
    assert np.bincount(bins.codes(AGE))[:5] == pytest.approx([800] * 5, abs=30)
    assert bin_column([1, 1, 1]).names == ("all", "missing")


def test_monotonic_bins() -> None:
    wave = (RANDOM.random(ROWS) < 0.5 + 0.3 * np.sin(AGE / 4) - AGE / 200).astype(int)
    found = {
        monotonic: evidence(bin_column(AGE, wave, most=8, monotonic=monotonic), AGE, wave).table()
        for monotonic in (False, True)
    }
    rates = {name: table["rate"].dropna() for name, table in found.items()}
    assert rates[True].is_monotonic_decreasing
    assert not rates[False].is_monotonic_decreasing


def test_words_that_are_rare_or_new_share_a_bin() -> None:
    words = ["a"] * 50 + ["b"] * 45 + ["c"] * 3 + [None] * 2
    bins = bin_column(words, [0, 1] * 50)
    assert bins.names == ("a", "b", "other", "missing")
    assert bins.codes(["b", "c", "new", None]).tolist() == [1, 2, 2, 3]
    assert bin_column([True, False] * 5).names == ("False", "True", "other", "missing")


def test_weights_of_evidence_by_hand() -> None:
    values = ["x"] * 40 + ["y"] * 60
    labels = [1] * 10 + [0] * 30 + [1] * 10 + [0] * 50
    found = evidence(bin_column(values), values, labels)
    ones, zeros = np.array([10.5, 10.5]), np.array([30.5, 50.5])
    woe = np.log(ones / ones.sum() / (zeros / zeros.sum()))
    assert found.woe == pytest.approx((*woe, 0, 0))
    assert found.iv == pytest.approx(((ones / ones.sum() - zeros / zeros.sum()) * woe).sum())
    assert found.transform(["x", None]) == pytest.approx([woe[0], 0])
    assert found.table()["rate"].tolist()[:2] == [0.25, pytest.approx(1 / 6)]
    weighed = evidence(found.bins, [*values, "x"], [*labels, 1], [1] * 100 + [0])
    assert weighed.woe == pytest.approx(found.woe)


def test_a_column_that_is_the_label_is_suspicious() -> None:
    assert evidence(bin_column(TRUTH, TRUTH), TRUTH, TRUTH).strength == "suspicious"
    noise = RANDOM.random(ROWS)
    assert evidence(bin_column(noise, most=4), noise, TRUTH).strength == "none"


def test_turned_labels_give_the_same_weights_on_average() -> None:
    response = RandomisedResponse(1.0, secret=bytes(32))
    turned = response(torch.from_numpy(TRUTH), [str(each) for each in range(ROWS)]).numpy()
    assert (turned != TRUTH).mean() == pytest.approx(1 - response.keeping, abs=0.02)
    bins = bin_column(AGE, TRUTH, most=3)
    true = evidence(bins, AGE, TRUTH)
    corrected = evidence(bins, AGE, turned, label_keeping=response.keeping)
    plain = evidence(bins, AGE, turned)
    assert corrected.woe == pytest.approx(true.woe, abs=0.35)
    assert plain.iv < 0.5 * true.iv
    assert corrected.iv == pytest.approx(true.iv, rel=0.35)


def test_variance_inflation_is_that_of_regressions() -> None:
    frame = pd.DataFrame(RANDOM.normal(size=(500, 3)), columns=["a", "b", "c"])
    frame["d"] = frame["a"] + frame["b"] + RANDOM.normal(size=500) * 0.5
    found = variance_inflation(frame)
    for name in map(str, frame):
        others = frame.drop(columns=name)
        fit = LinearRegression().fit(others, frame[name])
        assert found[name] == pytest.approx(1 / (1 - fit.score(others, frame[name])))
    tied = variance_inflation(frame.assign(twin=2 * frame["c"], still=1.0, word="x"))
    assert tied[["c", "twin"]].tolist() == [np.inf, np.inf]
    assert tied["d"] == pytest.approx(found["d"])
    assert np.isnan(tied["still"])
    assert "word" not in tied
    assert correlations(frame).loc["a", "a"] == 1


def test_columns_are_chosen() -> None:
    frame = pd.DataFrame(
        {
            "age": AGE,
            "months": AGE * 12 + RANDOM.normal(size=ROWS),
            "noise": RANDOM.random(ROWS),
            "leak": TRUTH,
            "empty": np.nan,
            "town": np.where(RANDOM.random(ROWS) < 0.2 + 0.4 * TRUTH, "x", "y"),
        }
    )
    found = select(frame, TRUTH, most_iv=2.0, most_correlation=0.8, most=4)
    assert set(found.kept) == {"town", "age"} or set(found.kept) == {"town", "months"}
    assert "leak?" in found.dropped["leak"]
    assert "below 0.02" in found.dropped["noise"]
    assert found.dropped["empty"] == "it has no value"
    assert found.transform(frame).shape == (ROWS, 2)
    assert found.table()["iv"].is_monotonic_decreasing
    loose = select(frame, TRUTH, most_iv=2.0, most_correlation=1.0, most_vif=1.5, most=4)
    assert {"age", "months"} - set(loose.kept)


@pytest.mark.parametrize(
    ("values", "more", "error"),
    [
        ([None, None], {}, ColumnError),
        ([1.0, np.inf], {}, ColumnError),
        ([1, 2], {"most": 1}, ConfigError),
        ([1, 2], {"least_share": 0.9}, ConfigError),
    ],
)
def test_what_cannot_be_cut(values: Any, more: Any, error: Any) -> None:
    with pytest.raises(error):
        bin_column(values, **more)


def test_what_cannot_be_weighed() -> None:
    bins = bin_column([1, 2, 3, 4])
    for labels in ([0, 0, 0, 0], [0, 1, 2, 1]):
        with pytest.raises(ColumnError):
            evidence(bins, [1, 2, 3, 4], labels)
    with pytest.raises(ConfigError):
        evidence(bins, [1, 2, 3, 4], [0, 1, 0, 1], label_keeping=0.5)
    with pytest.raises(ColumnError, match="words"):
        bins.codes(["x"])
