"""Weights of evidence as a step of the preparation, and the scorecard in a trained model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch

from heterofed import simulate
from heterofed.errors import ConfigError
from heterofed.tabular import TabularCollaborator, TabularHost
from heterofed.tabular.kinds import Column
from heterofed.tabular.prepare import WOE, Impute, Preparation, Scale, Step
from heterofed.tabular.scorecard import bin_column, build_scorecard, evidence
from heterofed.tabular.trained_scorecard import scorecard_of
from tests.tabular.people import loans

COLUMNS = [
    Column(name="risk", kind="numeric"),
    Column(name="city", kind="category"),
    Column(name="member", kind="boolean"),
]


def rows() -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    frame = loans(400)[0]
    frame["member"] = np.where(frame["risk"] > 0, 1.0, 0.0)
    frame.loc[::7, "risk"] = np.nan
    return frame[["risk", "city", "member"]], (frame["defaulted"] == "yes").to_numpy(float)


def test_the_step_is_the_evidence_of_the_train_rows() -> None:
    frame, labels = rows()
    weights = np.linspace(0.5, 2, len(frame))
    fitted = Preparation.fit(frame, COLUMNS, [WOE(most=4)], labels=labels, weights=weights)
    kept = msgspec.json.decode(msgspec.json.encode(fitted), type=Preparation)
    assert kept == fitted
    assert fitted.shape.dense == ("WOE of risk", "WOE of city", "WOE of member")
    found = kept.apply(frame.iloc[:50]).dense.numpy()
    for at, name in enumerate(frame.columns):
        bins = bin_column(frame[name], labels, weights, column=name, most=4)
        told = evidence(bins, frame[name], labels, weights)
        assert found[:, at] == pytest.approx(told.transform(frame[name][:50]), abs=1e-6)
        assert np.unique(found[:, at]).size > 1


def test_only_chosen_columns_and_only_labels_of_two_classes() -> None:
    frame, labels = rows()
    steps: list[Step] = [WOE(columns=["city"]), Impute(), Scale()]
    fitted = Preparation.fit(frame, COLUMNS, steps, labels=labels)
    assert fitted.shape.dense == ("WOE of city", "risk is missing", "risk")
    with pytest.raises(ConfigError, match="WOE is fitted by labels of two classes"):
        Preparation.fit(frame, COLUMNS, steps)


def test_a_party_without_such_labels_is_told_before_anybody_is_met(tmp_path: Path) -> None:
    mine, theirs = loans(50)
    with pytest.raises(ConfigError, match="this party has none"):
        TabularCollaborator("shop", theirs, ids="client", prepare=[WOE()], results_dir=tmp_path)
    with pytest.raises(ConfigError, match="labels of two classes"):
        TabularHost(
            "bank", mine, ids="customer", label="city", prepare=[WOE()], results_dir=tmp_path
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a Host whose logistic model reads weights of evidence, with sample weights."""
    results = tmp_path_factory.mktemp("runs")
    mine, theirs = loans()
    mine["weight"] = 1.0 + (mine["risk"] > 0)
    bank = TabularHost(
        "bank",
        mine,
        ids="customer",
        label="defaulted",
        weight="weight",
        prepare=[WOE(most=4)],
        columns=["risk", "city"],
        model="logistic",
        max_rounds=4,
        learning_rate=0.1,
        batch_size=64,
        psi_protocol="ecdh",
        seed=0,
        results_dir=results,
    )
    shop = TabularCollaborator("shop", theirs, ids="client", results_dir=results, seed=0)
    simulate(bank, [shop], task_id="t")
    return results / "t" / "bank"


@pytest.mark.slow
def test_the_points_of_a_trained_model(folder: Path) -> None:
    from heterofed.tabular.models import Half, Top

    card = scorecard_of(folder, base_score=600, base_odds=20, pdo=40)
    half, top = Half(), Top()
    half.load_state_dict(torch.load(folder / "best_feature_model.pt", weights_only=True))
    top.load_state_dict(torch.load(folder / "best_infer_model.pt", weights_only=True))
    mine = loans()[0][["risk", "city"]]
    assert half.plan is not None
    with torch.no_grad():
        own = half(half.plan.preparation.apply(mine)).flatten() + top.bias.values
    wanted = 600 - 40 / math.log(2) * (own.double().numpy() + math.log(20))
    assert card.score(mine) == pytest.approx(wanted, abs=1e-3)
    table = card.table()
    assert table.columns.tolist() == ["column", "bin", "rows", "rate", "woe", "points"]
    assert table.groupby("column")["bin"].last().tolist() == ["missing", "missing"]
    risky = table[(table["column"] == "risk") & (table["rows"] > 0)]
    assert risky["points"].corr(risky["rate"]) < -0.9  # more defaults, fewer points


@pytest.mark.slow
def test_what_is_no_scorecard_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"best_feature_model\.pt cannot be read"):
        scorecard_of(tmp_path)
    with pytest.raises(ConfigError, match="pdo"):
        scorecard_of(folder, pdo=0)
    mine, theirs = loans(80)
    given: dict[str, Any] = {
        "label": "defaulted",
        "columns": ["risk"],
        "max_rounds": 1,
        "psi_protocol": "ecdh",
        "results_dir": tmp_path,
    }
    for model, said in (("mlp", "model='logistic'"), ("logistic", "not all inputs")):
        bank = TabularHost("bank", mine, ids="customer", **given | {"model": model})
        shop = TabularCollaborator("shop", theirs, ids="client", results_dir=tmp_path)
        simulate(bank, [shop], task_id=model)
        with pytest.raises(ConfigError, match=said):
            scorecard_of(tmp_path / model / "bank")


def test_points_double_the_odds() -> None:
    values, labels = ["a"] * 60 + ["b"] * 40, [1] * 10 + [0] * 50 + [1] * 20 + [0] * 20
    found = {"x": evidence(bin_column(values, column="x"), values, labels)}
    base = math.log(30 / 70)
    good = build_scorecard(found, {"x": 1.0}, base, base_score=500, base_odds=1, pdo=20)
    frame = pd.DataFrame({"x": ["a", "b"]})
    score = good.score(frame)
    odds = 2 ** ((score - 500) / 20)  # of good to bad
    assert odds == pytest.approx([50 / 10, 20 / 20], rel=0.05)
    turned = build_scorecard(
        found, {"x": 1.0}, base, base_score=500, base_odds=1, pdo=20, good="positive"
    )
    assert turned.score(frame) == pytest.approx(1000 - score)
    with pytest.raises(ConfigError, match="same columns"):
        build_scorecard(found, {"y": 1.0}, 0.0)


@pytest.mark.slow
def test_the_leak_report_sees_labels_beside_weights(folder: Path) -> None:
    found = pd.read_csv(folder / "leakage.csv")
    assert {"norm", "cosine", "spectral"} <= set(found["attack"])
    assert found.loc[found["attack"] == "cosine", "value"].max() > 0.9
