"""Numbers against scikit-learn's and torchmetrics', and what is undefined, in all kinds."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from sklearn import metrics
from torchmetrics.functional import classification, regression

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.evaluation import evaluate

RANDOM = np.random.default_rng(3)
TRUTH = (RANDOM.random(400) < 0.3).astype(float)
SCORES = np.round((TRUTH * 0.3 + RANDOM.random(400) * 0.7), 2)
WEIGHTS = RANDOM.integers(0, 4, 400).astype(float)


def test_binary_numbers() -> None:
    found = evaluate("binary", TRUTH, SCORES, threshold=0.4)
    tensors = torch.from_numpy(SCORES), torch.from_numpy(TRUTH).long()
    assert found["auc"] == pytest.approx(float(classification.binary_auroc(*tensors)))
    assert found["pr_auc"] == pytest.approx(
        float(classification.binary_average_precision(*tensors))
    )
    assert found["ks"] == pytest.approx(ks_2samp(SCORES[TRUTH == 1], SCORES[TRUTH == 0]).statistic)
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(TRUTH, SCORES))
    assert found["gini"] == pytest.approx(2 * found["auc"] - 1)
    assert found["f1"] == pytest.approx(metrics.f1_score(TRUTH, SCORES >= 0.4))
    assert found["recall"] == pytest.approx(metrics.recall_score(TRUTH, SCORES >= 0.4))
    at = found["ks_threshold"] <= SCORES
    assert at[TRUTH == 1].mean() - at[TRUTH == 0].mean() == pytest.approx(found["ks"])
    assert set(found.curves) == {"roc", "pr", "calibration", "gain"}
    assert max(len(each.x) for each in found.curves.values()) <= 200
    assert found.notes == []
    assert "auc" in str(found)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression", "counts"])
def test_weights_count_as_repeated_rows(kind: Any) -> None:
    truth, scores = given(kind)
    at = np.repeat(np.arange(400), WEIGHTS.astype(int))
    weighed, repeated = (
        evaluate(kind, truth, scores, WEIGHTS),
        evaluate(kind, truth[at], scores[at]),
    )
    assert weighed.metrics == pytest.approx(repeated.metrics, nan_ok=True)
    for name, table in weighed.tables.items():
        for row, other in zip(table.rows, repeated.tables[name].rows, strict=True):
            numbers = [each for each in row if not isinstance(each, str)]
            others = [each for each in other if not isinstance(each, str)]
            assert numbers == pytest.approx(others, nan_ok=True, abs=1e-9)


def given(kind: str) -> tuple[Any, Any]:
    many = RANDOM.random((400, 3))
    if kind == "binary":
        return TRUTH, SCORES
    if kind == "multiclass":
        return RANDOM.integers(0, 3, 400), many / many.sum(axis=1, keepdims=True)
    if kind == "multilabel":
        return (RANDOM.random((400, 3)) < 0.4).astype(float), many
    return RANDOM.poisson(2.0, 400).astype(float), RANDOM.random(400) * 3 + 0.1


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression", "counts"])
def test_the_order_of_rows_does_not_count(kind: Any) -> None:
    truth, scores = given(kind)
    order = RANDOM.permutation(400)
    one, other = evaluate(kind, truth, scores), evaluate(kind, truth[order], scores[order])
    assert one.metrics == pytest.approx(other.metrics)
    for name, table in one.tables.items():
        assert str(table.columns) == str(other.tables[name].columns)
        flat = [each for row in table.rows for each in row if not isinstance(each, str)]
        others = [
            each for row in other.tables[name].rows for each in row if not isinstance(each, str)
        ]
        assert flat == pytest.approx(others)


def test_lift_and_gain() -> None:
    truth = np.repeat([1.0, 0.0], [20, 80])
    perfect = evaluate("binary", truth, np.linspace(1, 0, 100)).tables["deciles"]
    by_name = dict(zip(perfect.columns, zip(*perfect.rows, strict=True), strict=True))
    assert by_name["lift"] == pytest.approx([5, 5] + [0] * 8)
    assert by_name["gain"] == pytest.approx([0.5] + [1] * 9)
    assert by_name["cumulative lift"][-1] == pytest.approx(1)
    assert by_name["rows"] == pytest.approx([10] * 10)
    assert by_name["lowest score"][0] == pytest.approx(1 - 9 / 99)
    useless = evaluate("binary", truth, np.full(100, 0.2)).tables["deciles"]
    lift = useless.columns.index("lift")
    assert [row[lift] for row in useless.rows] == pytest.approx([1] * 10)


def test_calibrated_scores_have_no_error() -> None:
    said = np.repeat(np.linspace(0.05, 0.95, 10), 20)
    truth = np.concatenate([np.r_[np.ones(n), np.zeros(20 - n)] for n in range(1, 20, 2)])
    assert evaluate("binary", truth, said)["calibration_error"] == pytest.approx(0, abs=1e-12)
    assert evaluate("binary", truth, said * 0)["calibration_error"] == pytest.approx(0.5)


def test_numbers_of_classes() -> None:
    truth, scores = given("multiclass")
    found = evaluate("multiclass", truth, scores, classes=["a", "b", "c"])
    tensors = torch.from_numpy(scores), torch.from_numpy(truth)
    assert found["macro_f1"] == pytest.approx(
        float(classification.multiclass_f1_score(*tensors, num_classes=3, average="macro"))
    )
    assert found["macro_auc"] == pytest.approx(
        float(classification.multiclass_auroc(*tensors, num_classes=3)), abs=1e-6
    )
    recall = classification.multiclass_recall(*tensors, num_classes=3, average="none")
    table = found.tables["classes"]
    assert [row[0] for row in table.rows] == ["a", "b", "c"]
    assert [row[table.columns.index("recall")] for row in table.rows] == pytest.approx(
        recall.tolist()
    )
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth, scores))


def test_numbers_of_numbers() -> None:
    truth, scores = given("counts")
    found = evaluate("counts", truth, scores)
    tensors = torch.from_numpy(scores), torch.from_numpy(truth)
    assert found["r2"] == pytest.approx(float(regression.r2_score(*tensors)))
    assert found["mae"] == pytest.approx(float(regression.mean_absolute_error(*tensors)))
    assert found["rmse"] == pytest.approx(
        float(regression.mean_squared_error(*tensors, squared=False))
    )
    assert found["poisson_deviance"] == pytest.approx(
        float(regression.tweedie_deviance_score(*tensors, power=1.0))
    )
    assert sum(found.curves["residuals"].y) == 400


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("kind", "labels", "scores", "undefined"),
    [
        ("binary", [1, 1], [0.2, 0.9], {"auc", "ks", "gini", "pr_auc"}),
        ("binary", [0, 0], [0.2, 0.9], {"auc", "ks", "gini", "pr_auc", "recall"}),
        ("binary", [1], [0.3], {"auc", "ks", "gini", "pr_auc"}),
        ("multiclass", [1, 1], [[0.1, 0.9, 0], [0.2, 0.5, 0.3]], {"macro_auc"}),
        ("multiclass", [1, 0], [[0.0, 0.0, 0], [0.2, 0.5, 0.3]], set()),
        ("multilabel", [[0, 0], [0, 0]], [[0.2, 0.1], [0.5, 0.5]], {"macro_auc"}),
        ("regression", [2, 2], [1, 3], {"r2"}),
        ("regression", [2], [1], {"r2"}),
        ("counts", [0, 0], [0, 0], {"r2", "d2"}),
        ("binary", [1, 0], [float("nan"), float("nan")], None),
        ("binary", [1, 0, 1], [float("nan"), 0.5, float("inf")], None),
        ("regression", [], [], None),
    ],
)
def test_what_is_undefined_is_said_and_ends_nothing(
    kind: Any, labels: Any, scores: Any, undefined: set[str] | None
) -> None:
    if not scores and kind == "regression":
        labels, scores = np.zeros(0), np.zeros(0)
    found = evaluate(kind, labels, scores)
    if undefined is None:
        assert found.notes
    else:
        missing = {name for name, each in found.metrics.items() if math.isnan(each)}
        assert undefined <= missing <= undefined | {"precision", "recall", "f1"}
        assert found.notes or not undefined
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["kind"] == kind
    assert str(found)


@pytest.mark.parametrize(
    ("kind", "labels", "scores", "weights"),
    [
        ("binary", [0, 2], [0.1, 0.2], None),
        ("binary", [0, 1], [[0.1], [0.2]], None),
        ("binary", [0, 1, 1], [0.1, 0.2], None),
        ("binary", [0, 1], [0.1, 0.2], [1]),
        ("binary", [0, 1], [0.1, 0.2], [1, -1]),
        ("multiclass", [0, 3], [[0.5, 0.5], [0.5, 0.5]], None),
        ("regression", [math.nan], [1.0], None),
    ],
)
def test_what_does_not_fit_together_is_refused(
    kind: Any, labels: Any, scores: Any, weights: Any
) -> None:
    with pytest.raises(ColumnError):
        evaluate(kind, labels, scores, weights)


def test_settings() -> None:
    with pytest.raises(ConfigError, match="kind="):
        evaluate("rank", [0], [0])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="threshold=2"):
        evaluate("binary", [0], [0], threshold=2)
    none = evaluate("binary", [0, 1], [0.1, 0.2], [0, 0])
    assert none.notes == ["no row is left to judge by"]
