"""Steps are fitted on train rows alone, are plain data, and read later rows as they read those."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.kinds import Column, Kind
from heterofed.tabular.prepare import (
    Booleans,
    Dates,
    Embed,
    HashText,
    Impute,
    Inputs,
    OneHot,
    Preparation,
    Scale,
    Step,
    Tags,
    choose,
)


def prepared(values: Any, kind: Kind, *steps: Step, train: int | None = None) -> Inputs:
    """One column through steps that are fitted on its first rows."""
    frame = pd.DataFrame({"x": values})
    fitted = Preparation.fit(frame[:train], [Column(name="x", kind=kind)], steps)
    return again(fitted).apply(frame)


def again(preparation: Preparation) -> Preparation:
    """What comes out of a file."""
    return msgspec.json.decode(msgspec.json.encode(preparation), type=Preparation)


def test_numbers_are_scaled_as_scikit_learn_scales_them() -> None:
    values = np.random.default_rng(0).lognormal(size=300)
    standard = prepared(values, "numeric", Scale("standard"), train=200).dense[:, 0]
    expected = StandardScaler().fit(values[:200, None]).transform(values[:, None])[:, 0]
    np.testing.assert_allclose(standard, expected, rtol=1e-5, atol=1e-6)

    bent = prepared(values, "numeric", Scale(), train=200).dense[:, 0].double().numpy()
    of = QuantileTransformer(n_quantiles=200, output_distribution="normal").fit(values[:200, None])
    expected = of.transform(values[:, None])[:, 0].clip(-4, 4)
    expected = (expected - expected[:200].mean()) / expected[:200].std()
    np.testing.assert_allclose(bent, expected, atol=1e-4)


@pytest.mark.parametrize("how", ["quantile", "standard", "log", "minmax", "none"])
def test_every_scale_takes_constant_and_missing_columns(how: Any) -> None:
    for values in ([2.0, 2.0, 2.0], [np.nan, np.nan, np.nan], [1.0, np.nan, 3.0]):
        dense = prepared(values, "numeric", Scale(how)).dense
        assert torch.isfinite(dense).all()


def test_missing_numbers_get_the_train_rows_median_and_say_so() -> None:
    inputs = prepared([1, 2, 9, None, 1000, None], "numeric", Impute(), Scale("none"), train=4)
    assert inputs.dense.tolist() == [[0, 1], [0, 2], [0, 9], [1, 2], [0, 1000], [1, 2]]


def test_rows_that_were_not_trained_on_change_nothing() -> None:
    frame = pd.DataFrame(
        {
            "n": [1.0, 2, None, 4, 1e9],
            "c": ["a", "a", "b", "b", "new"],
            "t": ["x", "y z", "", "x", "q"],
        }
    )
    columns = [
        Column(name="n", kind="numeric"),
        Column(name="c", kind="category"),
        Column(name="t", kind="tags"),
    ]
    steps: list[Step] = [Impute(), Scale(), Embed(min_count=1), Tags(min_count=1)]
    fitted = Preparation.fit(frame[:4], columns, steps)
    other = frame.copy()
    other.loc[4, ["n", "c", "t"]] = pd.Series({"n": -7.0, "c": "z", "t": "w"})
    assert Preparation.fit(other[:4], columns, steps) == fitted


def test_categories_rare_unseen_and_missing() -> None:
    values = ["a"] * 5 + ["b"] * 5 + ["rare", None, "new", ""]
    codes = prepared(values, "category", Embed(), train=12).codes["x"][:, 0].tolist()
    assert codes == [2] * 5 + [3] * 5 + [0, 1, 0, 1]
    dense = prepared(values, "category", OneHot(), train=12).dense
    assert dense[[0, 5, 10, 11, 12]].tolist() == [
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [1, 0, 0, 0],
    ]


def test_whole_numbers_are_one_category_however_pandas_holds_them() -> None:
    frame = pd.DataFrame({"x": [1, 2, 1, 2]})
    fitted = Preparation.fit(frame, [Column(name="x", kind="category")], [Embed(min_count=1)])
    later = pd.DataFrame({"x": [1.0, 2.0, None]})
    assert fitted.apply(later).codes["x"][:, 0].tolist() == [2, 3, 1]


def test_truths_and_dates() -> None:
    truths = prepared(["Yes", "no", "TRUE", None], "boolean", Booleans(), train=3).dense
    np.testing.assert_allclose(truths[:, 0], [1, 0, 1, 2 / 3], rtol=1e-6)
    dates = prepared(["2024-01-01", "2024-01-02", "2024-01-08", None], "date", Dates()).dense
    assert dates.shape == (4, 6)
    assert dates[3].tolist() == [1, 0, 0, 0, 0, 0]
    torch.testing.assert_close(dates[0, 4:], dates[2, 4:])  # the same day of the week


def test_text_is_hashed_as_scikit_learn_hashes_it() -> None:
    texts = ["late payer", "good client, good", "", "late"]
    bag = prepared(texts, "text", HashText(buckets=64, pairs=False)).bags["x"]
    of = HashingVectorizer(n_features=64, alternate_sign=False, token_pattern=r"(?u)\b\w+\b")
    dense = torch.zeros(4, 64)
    for row in range(4):
        at = slice(int(bag.starts[row]), int(bag.starts[row + 1]))
        dense[row].index_add_(0, bag.tokens[at], bag.weights[at])
    np.testing.assert_allclose(dense, of.transform(texts).toarray(), atol=1e-6)


def test_tags_with_and_without_numbers() -> None:
    bag = prepared(
        ["a:2;b:1", "b:4", "a", "", "unseen:3 b:2"], "tags", Tags(min_count=1), train=4
    ).bags["x"]
    assert bag.tokens.tolist() == [0, 1, 1, 0, 1]
    assert bag.weights.tolist() == [1.0, 0.25, 1.0, 0.5, 0.5]
    assert bag.starts.tolist() == [0, 2, 3, 4, 4, 5]
    some = bag.take(torch.tensor([4, 0]))
    assert some.tokens.tolist() == [1, 0, 1]
    assert some.starts.tolist() == [0, 1, 3]


def test_a_tag_that_holds_a_colon_is_a_tag() -> None:
    frame = pd.DataFrame({"x": ["colour:red size:2", "colour:blue"]})
    fitted = Preparation.fit(frame, [Column(name="x", kind="tags")], [Tags(min_count=1)])
    (step,) = fitted.steps
    assert isinstance(step, Tags)
    assert step.tags == {"x": {"colour:blue": 1.0, "colour:red": 1.0, "size": 2.0}}


def test_steps_are_for_columns_that_are_named_and_each_column_is_taken_once() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 4.0]})
    columns = [Column(name=name, kind="numeric") for name in "ab"]
    done = Preparation.fit(frame, columns, [Scale("none", columns=["b"]), Scale("standard")])
    assert done.shape.dense == ("b", "a")
    assert done.apply(frame).dense[:, 0].tolist() == [1, 2, 4]
    with pytest.raises(ConfigError, match="'b', which is not there or was taken"):
        Preparation.fit(frame, columns, [Scale(), Scale(columns=["b"])])


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([1, "two", 3], "numeric", "holds no number in 1 rows, the first of them row 2"),
        ([1.0, np.inf, 3], "numeric", "an infinite number"),
        (["yes", "perhaps"], "boolean", "neither true nor false"),
        (["2024-01-01", "someday"], "date", "no date"),
    ],
)
def test_cells_that_a_column_cannot_hold_are_told_by_row(
    values: Any, kind: Kind, said: str
) -> None:
    frame = pd.DataFrame({"x": values})
    steps = choose([Column(name="x", kind=kind)])
    with pytest.raises(ColumnError, match=said) as caught:
        Preparation.fit(frame, [Column(name="x", kind=kind)], steps)
    assert "'x'" in str(caught.value)
    assert "perhaps" not in str(caught.value)


def test_other_columns_are_refused_before_a_row_is_read() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0]})
    fitted = Preparation.fit(frame, [Column(name=name, kind="numeric") for name in "ab"], [Scale()])
    for other in (frame[["b", "a"]], frame[["a"]], frame.assign(c=1)):
        with pytest.raises(ColumnError, match="in this order"):
            fitted.apply(other)


def test_nothing_to_learn_from() -> None:
    frame = pd.DataFrame({"a": ["x", "x"]})
    with pytest.raises(ColumnError, match="none is left to learn from"):
        Preparation.fit(frame, [Column(name="a", kind="constant")], [])
    with pytest.raises(ConfigError, match="no train row"):
        Preparation.fit(frame[:0], [Column(name="a", kind="category")], [Embed()])


def test_steps_are_chosen_by_kind() -> None:
    columns = [
        Column(name="a", kind="numeric"),
        Column(name="b", kind="category"),
        Column(name="c", kind="constant"),
        Column(name="d", kind="id"),
    ]
    assert choose(columns) == [Impute(), Scale(), Embed()]
    assert choose(columns, linear=True) == [Impute(), Scale(), OneHot()]
