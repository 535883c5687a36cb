"""What each column is worth: measured after the last round, told to its owner by name alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from heterofed import simulate
from heterofed.errors import ConfigError, ReleaseLimitError
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.protocol.messages import Features, Findings
from heterofed.tabular import TabularCollaborator, TabularHost
from heterofed.tabular.importance import table_of, told
from tests.tabular.people import loans
from tests.tabular.test_tabular_task import bank_of, shop_of

LEARNS: dict[str, Any] = {"max_rounds": 4, "learning_rate": 0.01, "importance": True}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    results = tmp_path_factory.mktemp("runs")
    mine, theirs = loans()
    bank = bank_of(mine, results, **LEARNS)
    shop = shop_of(theirs, results, importance=True)
    return bank, simulate(bank, [shop], task_id="t"), results


@pytest.mark.slow
def test_each_party_has_its_own_columns_by_name(measured: Any) -> None:
    bank, done, _ = measured
    at_bank = pd.read_csv(done.results["bank"].metrics["importance"], dtype={"column": str})
    at_shop = pd.read_csv(done.results["shop"].metrics["importance"])
    assert set(at_bank.loc[at_bank["party"] == "bank", "column"]) == {"risk", "income", "city"}
    theirs = at_bank[at_bank["party"] == "shop"]
    assert sorted(theirs["column"]) == ["1", "2", "3", "4", "5"]  # by number, at the Host
    assert set(at_shop["party"]) == {"shop"}
    assert at_shop["column"].iloc[0] == "spend"  # what the label hangs on comes first
    assert at_shop["drop"].iloc[0] >= 0.03
    assert at_shop["drop"].tolist() == pytest.approx(theirs["drop"].tolist(), abs=0.006)
    assert bank.evaluation.tables["importance"].columns == ("party", "column", "auc")
    kept = json.loads((done.results["bank"].folder / "evaluation.json").read_text())
    assert len(kept["tables"]["importance"]["rows"]) == 8


def test_take_findings_gets_numbers_of_own_columns_and_no_name_travels(measured: Any) -> None:
    _, done, _ = measured
    found = [m.message for m in done.received["shop"] if isinstance(m.message, Findings)]
    assert len(found) == 1
    assert len(found[0].values) == 5
    sent = str([each.message for each in done.received["bank"]])
    assert not any(name in sent for name in ("spend", "newsletter", "since", "notes", "basket"))


@pytest.mark.slow
def test_iterate_final_feature_counts_as_releases(tmp_path: Path) -> None:
    """A test row leaves in each of four rounds, then as it is and once for each of five columns."""
    mine, theirs = loans()
    for limit in (9, 10):
        results = tmp_path / str(limit)
        shop = shop_of(theirs, results, importance=True, max_releases_per_row=limit)
        if limit == 9:
            with pytest.raises(ReleaseLimitError, match="max_releases_per_row"):
                simulate(bank_of(mine, results, **LEARNS), [shop], task_id="t")
        else:
            simulate(bank_of(mine, results, **LEARNS), [shop], task_id="t")


@pytest.mark.slow
def test_the_models_are_those_of_the_last_round_again(measured: Any, tmp_path: Path) -> None:
    _, done, _ = measured
    mine, theirs = loans()
    plain = simulate(
        bank_of(mine, tmp_path, **LEARNS | {"importance": False}),
        [shop_of(theirs, tmp_path)],
        task_id="t",
    )
    for party, model in (("bank", "infer_model"), ("shop", "best_feature_model")):
        models = [each.results[party].models[model].read_bytes() for each in (done, plain)]
        assert models[0] == models[1]


def test_a_party_that_does_not_allow_it_refuses_before_any_id_is_sent(tmp_path: Path) -> None:
    mine, theirs = loans()
    with pytest.raises(ConfigError, match="importance=True"):
        simulate(bank_of(mine, tmp_path, **LEARNS), [shop_of(theirs, tmp_path)], task_id="t")


@pytest.mark.slow
@pytest.mark.long
def test_final_look_measures_the_headline_metric_without_the_column(tmp_path: Path) -> None:
    """A column that nothing hangs on has a drop near 0; the one that decides takes nearly all."""
    chance = np.random.default_rng(0)
    rows = 1200
    people = [f"P{row:04}" for row in range(rows)]
    signal = chance.normal(size=rows)
    mine = pd.DataFrame({"id": people, "y": np.where(signal > 0, "yes", "no")})
    theirs = pd.DataFrame({"id": people, "noise": chance.normal(size=rows), "signal": signal})
    given: dict[str, Any] = {"ids": "id", "results_dir": tmp_path, "seed": 0, "importance": True}
    bank = TabularHost(
        "bank", mine, label="y", max_rounds=8, learning_rate=0.02, psi_protocol="ecdh", **given
    )
    done = simulate(bank, [TabularCollaborator("shop", theirs, **given)], task_id="t")
    found = pd.read_csv(done.results["shop"].metrics["importance"]).set_index("column")["drop"]
    assert found["signal"] == pytest.approx(bank.evaluation["auc"] - 0.5, abs=0.1)  # type: ignore[index]
    assert abs(found["noise"]) < 0.05
    rows_sent = {m.message.rows for m in done.received["bank"] if isinstance(m.message, Features)}
    assert len(bank.final_ids) in rows_sent


@pytest.mark.slow
def test_end_final_look_is_done_by_a_run_that_was_stopped_there(tmp_path: Path) -> None:
    mine, theirs = loans()

    class Stopped(TabularHost):
        stops = True

        def end_final_look(self) -> Any:
            if Stopped.stops:
                raise KeyboardInterrupt
            return super().end_final_look()

    def host() -> TabularHost:
        given = LEARNS | {"batch_size": 64, "seed": 0, "psi_protocol": "ecdh", "max_rounds": 2}
        return Stopped(
            "bank", mine, ids="customer", label="defaulted", results_dir=tmp_path, **given
        )

    with pytest.raises(KeyboardInterrupt):
        simulate(host(), [shop_of(theirs, tmp_path, importance=True)], task_id="t")
    Stopped.stops = False
    done = simulate(
        host(), [shop_of(theirs, tmp_path, importance=True)], task_id="t", resume="require"
    )
    assert len(pd.read_csv(done.results["shop"].metrics["importance"])) == 5
    assert done.results["bank"].rounds == 2


def test_what_others_are_told_is_rounded_and_bounded() -> None:
    found = told([0.123, -0.006, 5e9, -5e9, float("nan"), float("inf")])
    assert found == pytest.approx([0.12, -0.01, 1.0, -1.0, float("nan"), 1.0], nan_ok=True)


def test_it_goes_with_no_label_dp(tmp_path: Path) -> None:
    mine, theirs = loans()
    bank = bank_of(mine, tmp_path, importance=True, label_dp=RandomisedResponse(1.0))
    with pytest.raises(ConfigError, match="final_rows and label_dp"):
        simulate(bank, [shop_of(theirs, tmp_path, importance=True)], task_id="t")


@pytest.mark.slow
def test_a_column_of_any_name_is_permuted(tmp_path: Path) -> None:
    mine, theirs = loans()
    theirs = theirs.rename(columns={"spend": "self"})
    shop = shop_of(theirs, tmp_path, importance=True)
    done = simulate(bank_of(mine, tmp_path, **LEARNS | {"max_rounds": 1}), [shop], task_id="t")
    at_shop = pd.read_csv(done.results["shop"].metrics["importance"])
    assert "self" in at_shop["column"].tolist()


def test_numbers_without_a_meaning_come_last() -> None:
    table = table_of({"a": [0.1, float("nan"), 0.3], "b": [0.2]}, "a", ["x", "y", "z"])
    assert table["column"].tolist() == ["z", "x", "y", "1"]
