"""Two tables to one model: what the parties agree on, what is kept, and what it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from heterofed import simulate, simulate_prediction
from heterofed.errors import ColumnError, ConfigError
from heterofed.export import export
from heterofed.simulation.simulate import Simulation
from heterofed.tabular import TabularCollaborator, TabularHost
from tests.tabular.people import loans

SMALL: dict[str, Any] = {"batch_size": 64, "max_rounds": 2, "seed": 0, "psi_protocol": "ecdh"}


def bank_of(table: pd.DataFrame, results: Path, **more: Any) -> TabularHost:
    given = SMALL | {"label": "defaulted"} | more
    return TabularHost("bank", table, ids="customer", results_dir=results, **given)


def shop_of(table: pd.DataFrame, results: Path, **more: Any) -> TabularCollaborator:
    given: dict[str, Any] = {"seed": 0} | more
    return TabularCollaborator("shop", table, ids="client", results_dir=results, **given)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TabularHost, Simulation, Path]:
    results = tmp_path_factory.mktemp("runs")
    mine, theirs = loans()
    bank = bank_of(mine, results, max_rounds=5, learning_rate=0.01)
    shop = shop_of(theirs, results)
    return bank, simulate(bank, [shop], task_id="t", baselines=["local"]), results


@pytest.mark.slow
def test_the_model_learns_from_both_tables(trained: Any) -> None:
    bank, done, _ = trained
    assert bank.evaluation.metrics["auc"] > 0.75
    assert bank.classes_ == (False, True)
    test = pd.read_csv(done.comparison.tables["test"])
    assert test["mode"].tolist() == ["joint", "local"]  # the test rows are asked once, at the end
    joint, local = test["auc"]
    assert joint == bank.evaluation.metrics["auc"] > local
    validation = pd.read_csv(done.results["bank"].metrics["validation"])
    assert validation.columns.tolist() == ["round", "loss", "auc", "pr_auc"]
    assert done.results["bank"].best_round == 1 + validation["loss"].argmin()


@pytest.mark.slow
def test_the_shares_of_the_parties_are_told(tmp_path: Path) -> None:
    mine, theirs = loans()
    bank = bank_of(mine, tmp_path, max_rounds=4, learning_rate=0.01, party_dropout=0.3)
    simulate(bank, [shop_of(theirs, tmp_path)], task_id="t")
    assert bank.evaluation is not None
    shares = bank.evaluation.tables["shares"]
    assert shares.columns == ("party", "auc")
    assert [name for name, _ in shares.rows] == ["bank", "shop"]
    assert shares.rows[0][1] > 0.2
    assert shares.rows[1][1] > 0
    assert sum(share for _, share in shares.rows) == pytest.approx(
        bank.evaluation["auc"] - 0.5, abs=1e-6
    )


@pytest.mark.slow
def test_the_best_model_predicts_what_the_test_has_measured(trained: Any) -> None:
    bank, done, results = trained
    mine, theirs = loans()
    host = bank_of(mine.drop(columns="defaulted"), results, label=None)
    frame = simulate_prediction(host, [shop_of(theirs, results)], task_id="t", models="best")
    predicted = frame.results["bank"].set_index("id")["probability"]
    assert len(predicted) == done.results["bank"].ids
    tested = bank._party.parts(set(predicted.index)).test
    truth = mine.set_index("customer").loc[tested, "defaulted"] == "yes"
    auc = float(roc_auc_score(truth, predicted[tested]))
    assert auc == pytest.approx(bank.evaluation.metrics["auc"], abs=1e-6)


@pytest.mark.slow
def test_a_single_row_is_served_as_it_was_trained(trained: Any) -> None:
    _, _, results = trained
    mine, theirs = loans()
    common = sorted(set(mine["customer"]) & set(theirs["client"]))[7]
    whole = simulate_prediction(
        bank_of(mine, results, label=None), [shop_of(theirs, results)], task_id="t", ids=[common]
    )
    one = simulate_prediction(
        bank_of(mine[mine["customer"] == common], results, label=None),
        [shop_of(theirs[theirs["client"] == common], results)],
        task_id="t",
    )
    scores = [each.results["bank"]["probability"].tolist() for each in (whole, one)]
    assert scores[0] == pytest.approx(scores[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="spend"), "spend"),
        (lambda t: t[["client", "newsletter", "spend", "since", "notes", "basket"]], "order"),
        (lambda t: t.rename(columns={"spend": "paid"}), "spend"),
        (lambda t: t.assign(spend="plenty"), "spend"),
    ],
)
def test_a_table_that_changed_is_refused_before_a_row_is_served(
    change: Any, said: str, trained: Any
) -> None:
    _, _, results = trained
    mine, theirs = loans()
    with pytest.raises(ColumnError, match=said):
        simulate_prediction(
            bank_of(mine, results, label=None), [shop_of(change(theirs), results)], task_id="t"
        )


def test_the_preparation_leaves_with_the_exported_half(trained: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from heterofed.tabular.models import Half

    _, done, _ = trained
    export(done.results["shop"].folder, tmp_path / "half", models="best")
    half = Half()
    half.load_state_dict(load_file(tmp_path / "half" / "feature_model.safetensors"))
    assert half.plan is not None
    assert half.plan.preparation.names == ["spend", "newsletter", "since", "notes", "basket"]


def test_nothing_of_the_tables_is_announced(trained: Any) -> None:
    bank, done, _ = trained
    words = str([each.message for each in done.received["shop"]])
    agreed = bank._party.settings.announced()
    for name in ("defaulted", "customer", "income", "risk", "city", "yes"):
        assert name not in agreed.values()
        assert f"'{name}'" not in words


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"model": "logistic", "label": "city", "columns": ["risk", "income"]},
        {"model": "deepfm", "label": "income", "kind": "regression", "columns": ["risk"]},
        {"model": "wide_deep", "columns": [], "class_weights": "balanced", "stratify": True},
        {"time": "day", "schedule": "one_cycle", "label": "visits", "kind": "counts"},
        {"weight": "weight", "group": "branch", "folds": 3, "fold": 1, "columns": ["risk"]},
    ],
    ids=["classes", "regression", "label only", "time", "weights, groups, folds"],
)
def test_kinds_of_tasks_models_and_splits(more: dict[str, Any], tmp_path: Path) -> None:
    mine, theirs = loans(150)
    mine["income"] = mine["income"].fillna(0.0)
    mine["visits"] = (mine["risk"].abs() * 3).round()
    mine["branch"] = [f"b{row % 20}" for row in range(len(mine))]
    mine["day"] = pd.date_range("2024-01-01", periods=len(mine)).strftime("%d.%m.%Y")
    mine["weight"] = 1.0 + (mine["risk"] > 0)
    bank = bank_of(mine, tmp_path, **{"max_rounds": 1} | more)
    shop = shop_of(theirs, tmp_path, columns=["spend"])
    simulate(bank, [shop], task_id="t")
    assert bank.evaluation is not None
    assert bank.evaluation.rows > 0
    assert (tmp_path / "t" / "bank" / "best_infer_model.pt").exists()


class Stopped(Exception):
    """Raised once by a hook."""


class Interrupted(TabularHost):
    """Fails in its second round."""

    fails = True

    def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
        if self.current_round == 2 and type(self).fails:
            type(self).fails = False
            raise Stopped
        return super().train_a_batch(feature_projection, labels)


@pytest.mark.long
def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    mine, theirs = loans(150)
    outcomes = []
    for name, kind in (("whole", TabularHost), ("stopped", Interrupted)):
        results = tmp_path / name
        given = SMALL | {"label": "defaulted", "max_rounds": 3, "results_dir": results}
        bank = kind("bank", mine, ids="customer", **given)
        if kind is Interrupted:
            with pytest.raises(Stopped):
                simulate(bank, [shop_of(theirs, results)], task_id="t")
            bank = kind("bank", mine, ids="customer", **given)
        resume: Any = "require" if kind is Interrupted else "never"
        simulate(bank, [shop_of(theirs, results)], task_id="t", resume=resume)
        assert bank.evaluation is not None
        rounds = (results / "t" / "bank" / "validation.csv").read_text()
        outcomes.append((bank.evaluation.metrics, rounds))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"label": "defautled"}, "did you mean 'defaulted'"),
        ({"columns": ["risk", "defaulted"]}, "'defaulted' holds ids, the label"),
        ({"test": 1.5}, "test"),
        ({"dropout": 1.0}, "dropout"),
        ({"stratify": True, "group": "city"}, "one of stratify, group and time"),
        ({"folds": 3, "fold": 3}, "fold 3 of 3"),
    ],
)
def test_what_cannot_be_is_refused_when_the_party_is_made(
    more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, ColumnError), match=said):
        bank_of(loans(50)[0], tmp_path, **more)


def test_a_party_that_only_predicts_does_not_train(tmp_path: Path) -> None:
    mine, theirs = loans(50)
    with pytest.raises(ConfigError, match="can only predict"):
        bank_of(mine, tmp_path, label=None).launch_task("t")
    with pytest.raises(ColumnError, match="no column to learn from"):
        shop_of(theirs[["client"]], tmp_path).launch_task("t")
