"""`fit`: parties in one process, a result to look at, predictions by scikit-learn's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from heterofed.errors import ConfigError
from heterofed.tabular import Fitted, fit
from tests.tabular.people import loans

SMALL: dict[str, Any] = {"batch_size": 64, "max_rounds": 2, "seed": 0}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    bank, shop = loans(200)
    return fit(
        {"bank": bank, "shop": shop},
        ids={"bank": "customer", "shop": "client"},
        label="defaulted",
        columns={"shop": ["spend"]},
        results_dir=tmp_path_factory.mktemp("runs"),
        **SMALL,
    )


@pytest.mark.slow
def test_the_result_can_be_looked_at(fitted: Fitted) -> None:
    assert list(fitted.evaluations) == ["joint", "local"]
    assert all(0 <= each["auc"] <= 1 for each in fitted.evaluations.values())
    assert fitted.frame().columns.tolist() == ["joint", "local"]
    assert fitted.worth is not None
    for shown in (repr(fitted), fitted._repr_html_()):
        assert "binary model of bank and shop" in shown
        assert "joint" in shown
        assert str(fitted.worth) in shown
    assert {k: v.tolist() for k, v in fitted.feature_names_in_.items()} == {
        "bank": ["risk", "income", "city"],
        "shop": ["spend"],
    }


@pytest.mark.slow
def test_it_predicts_by_the_names_of_scikit_learn(fitted: Fitted) -> None:
    bank, shop = loans(200)
    both = bank[bank["customer"].isin(shop["client"])]
    frame = fitted.predictions()
    assert frame["customer"].tolist() == both["customer"].tolist()
    proba = fitted.predict_proba({"bank": both[:9], "shop": shop})
    assert proba.shape == (9, 2)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_allclose(proba[:, 1], frame["probability"][:9], rtol=1e-5)
    said = fitted.predict({"bank": both[:9], "shop": shop})
    assert said.tolist() == fitted.classes_[proba.argmax(axis=1)].tolist()
    with pytest.raises(ConfigError, match="'shop' was in the training"):
        fitted.predict({"bank": bank})


def test_what_fit_cannot_begin_with(tmp_path: Path) -> None:
    bank, shop = loans(50)
    with pytest.raises(ConfigError, match="two tables or more"):
        fit({"bank": bank}, ids="customer", label="defaulted")
    with pytest.raises(ConfigError, match="ids of 'shop'"):
        fit({"bank": bank, "shop": shop}, ids={"bank": "customer"}, label="defaulted")


@pytest.mark.slow
def test_three_parties_and_numbers(tmp_path: Path) -> None:
    bank, shop = loans(150)
    third = shop[["client", "newsletter"]]
    done = fit(
        {"bank": bank, "shop": shop[["client", "spend"]], "club": third},
        ids={"bank": "customer", "shop": "client", "club": "client"},
        label="risk",
        baselines=[],
        results_dir=tmp_path,
        **SMALL | {"max_rounds": 1, "model": "wide_deep"},
    )
    assert "r2" in done.frame().index
    assert done.worth is None
    assert done.predict().shape == (done.result.ids,)
    with pytest.raises(ConfigError, match="predicts numbers"):
        done.predict_proba()


@pytest.mark.slow
def test_a_seed_repeats_a_run_and_pooled_repeats_the_joint_one(tmp_path: Path) -> None:
    bank, shop = loans(200)
    scores = []
    for each in ("once", "again"):
        done = fit(
            {"bank": bank, "shop": shop},
            ids={"bank": "customer", "shop": "client"},
            label="defaulted",
            baselines=["pooled"],
            results_dir=tmp_path / each,
            **SMALL,
        )
        assert done.simulation.comparison
        by_mode = pd.read_csv(done.simulation.comparison.tables["scores"])
        scores += [part["score"].to_numpy() for _, part in by_mode.groupby("mode")]
    for other in scores[1:]:
        np.testing.assert_allclose(scores[0], other, rtol=1e-5)
