"""What partners are worth: intervals that hold, Shapley values that add up, columns by number."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.worth import judge, party_shares, permutation_drops, shapley, worth

RANDOM = np.random.default_rng(5)


def data(rows: int = 300) -> tuple[Any, Any, Any]:
    truth = (RANDOM.random(rows) < 0.4).astype(float)
    return truth, truth + RANDOM.normal(size=rows), truth * 0.3 + RANDOM.normal(size=rows)


def test_a_clear_gain_is_sure_and_none_is_not() -> None:
    truth, good, poor = data()
    found = worth("binary", truth, good, poor, samples=200)
    assert found.gain == pytest.approx(
        metrics.roc_auc_score(truth, good) - metrics.roc_auc_score(truth, poor)
    )
    assert found.low < found.gain < found.high
    assert found.is_sure
    same = worth("binary", truth, poor, poor, samples=50)
    assert (same.gain, same.low, same.high) == (0, 0, 0)
    assert not same.is_sure
    assert "it may be nothing" in str(same)
    assert "auc" in str(found)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of two models that are equally good, 80 % of the intervals have 0 within."""
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        truth = (random.random(120) < 0.5).astype(float)
        one, other = (truth + random.normal(size=120) for _ in range(2))
        found = worth("binary", truth, one, other, samples=100, level=0.8, seed=seed)
        covered += not found.is_sure
    assert 38 <= covered <= 57


def test_weights_count_as_repeated_rows() -> None:
    truth, good, poor = data(100)
    weights = RANDOM.integers(1, 4, 100)
    at = np.repeat(np.arange(100), weights)
    weighed = worth("binary", truth, good, poor, weights, samples=10)
    assert weighed.joint == pytest.approx(
        worth("binary", truth[at], good[at], poor[at], samples=10).joint
    )


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression", "counts"])
def test_judges_are_scikit_learns(kind: Any) -> None:
    weights = RANDOM.integers(0, 3, 200).astype(float)
    truth: Any = RANDOM.poisson(1.5, 200).astype(float)
    scores: Any = RANDOM.integers(1, 9, 200) / 4
    wanted: Any = metrics.r2_score
    if kind == "counts":
        wanted = functools.partial(metrics.d2_tweedie_score, power=1)
    if kind == "multiclass":
        truth, scores = RANDOM.integers(0, 3, 200), RANDOM.dirichlet([1, 1, 1], 200)

        def wanted(*given: Any, sample_weight: Any) -> float:
            return -float(metrics.log_loss(*given, sample_weight=sample_weight))

    if kind == "multilabel":
        truth, scores = (RANDOM.random((2, 200, 3)) < 0.4).astype(float)
        wanted = metrics.roc_auc_score
    found = judge(kind, truth, scores)(weights)
    assert found == pytest.approx(wanted(truth, scores, sample_weight=weights))


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression", "counts"])
def test_all_kinds(kind: Any) -> None:
    truth: Any = RANDOM.integers(0, 3, 200)
    good = np.eye(3)[truth] * 0.6 + 0.4 / 3
    poor = np.full((200, 3), 1 / 3) + RANDOM.random((200, 3)) / 100
    if kind == "multilabel":
        truth = np.eye(3)[truth]
    elif kind != "multiclass":
        good, poor = truth + RANDOM.random(200) / 4, 1 + RANDOM.random(200)
    assert worth(kind, truth, good, poor, samples=20).low > 0


def test_what_cannot_be_compared() -> None:
    ones = np.ones(20)
    with pytest.raises(ColumnError, match="undefined"):
        worth("binary", ones, ones, ones)
    with pytest.raises(ColumnError, match="same rows"):
        worth("binary", ones, ones, ones[1:])
    for wrong in ({"level": 1.0}, {"samples": 3}):
        with pytest.raises(ConfigError):
            worth("binary", ones, ones, ones, **wrong)
    with pytest.raises(ConfigError, match="kind="):
        worth("ranking", ones, ones, ones)  # type: ignore[arg-type]


def test_shapley_values_of_a_known_game() -> None:
    """The glove game: one left glove, two right ones; a pair is worth 1."""
    found = shapley(["l", "r1", "r2"], lambda some: float("l" in some and len(some) > 1))
    assert found == pytest.approx({"l": 2 / 3, "r1": 1 / 6, "r2": 1 / 6})
    assert shapley([], lambda _: 0.0) == {}
    with pytest.raises(ConfigError, match="13 parties"):
        shapley([str(each) for each in range(13)], lambda _: 0.0)


def test_shares_of_parties_add_up() -> None:
    rows = 400
    truth = (RANDOM.random(rows) < 0.5).astype(float)
    strong, weak = (truth * by + RANDOM.normal(size=rows) for by in (2.0, 0.5))

    def features(values: Any) -> Any:
        return torch.tensor(values, dtype=torch.float32)[:, None]

    def scores_of(projection: Any) -> torch.Tensor:
        total: Any = projection["bank"] + projection["shop"][0] + projection["inn"]["a"]
        return torch.sigmoid(total).squeeze(1)

    batches = [
        {
            "bank": features(weak[at]),
            "shop": (features(strong[at]),),
            "inn": {"a": torch.zeros(200, 1)},
        }
        for at in (slice(0, 200), slice(200, 400))
    ]
    found = party_shares("binary", scores_of, batches, truth, host="bank")
    whole = torch.cat([scores_of(each) for each in batches]).numpy()
    assert list(found) == ["bank", "shop", "inn"]
    assert math.fsum(found.values()) == pytest.approx(metrics.roc_auc_score(truth, whole) - 0.5)
    assert found["bank"] == pytest.approx(metrics.roc_auc_score(truth, weak) - 0.5, abs=1e-3)
    assert found["inn"] == 0
    assert found["shop"] > found["bank"] > 0
    label_only = [{name: each[name] for name in ("shop", "inn")} for each in batches]

    def without_host(projection: Any) -> torch.Tensor:
        return scores_of({"bank": torch.zeros(200, 1), **projection})

    found = party_shares("binary", without_host, label_only, truth, host="bank")
    assert found["bank"] == 0


def test_shares_of_columns() -> None:
    truth, good, _ = data()
    useless, useful = good, RANDOM.permutation(good)
    drops = permutation_drops("binary", truth, good, [useless, useful])
    assert drops[0] == 0
    assert drops[1] > 0.1
