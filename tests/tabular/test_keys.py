"""Rows matched by several keys: by phone, those that are left by e-mail; each at most once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from heterofed import simulate, simulate_prediction
from heterofed.errors import ConfigError, HeteroFedError, IdError, PSILimitError
from heterofed.protocol.messages import PsiBegin, PsiKey
from heterofed.simulation.simulate import Simulation
from heterofed.tabular import TabularCollaborator, TabularHost, open_source
from heterofed.tabular.ids import IdRecipe, RowKeys, key_of, unmarked

RECIPE = "phone:CN;email"
SMALL: dict[str, Any] = {"batch_size": 32, "max_rounds": 2, "seed": 0, "psi_protocol": "ecdh"}


def people(count: int = 160, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A bank's rows and a shop's, of the same people in another order. Of 160 people the shop has
    the phone number of the first 100 and the e-mail address of the last 100; the bank has both of
    all but the last five, of which it has neither.
    """
    chance = np.random.default_rng(seed)
    phones = [f"138{number:08}" for number in range(count)]
    emails = [f"Person{number}@Example.com" for number in range(count)]
    signal = chance.normal(size=count)
    label = np.where(signal + chance.normal(size=count) > 0, "yes", "no")
    bank = pd.DataFrame(
        {
            "who": range(count),
            "mobile": phones,
            "mail": emails,
            "risk": chance.normal(size=count),
            "defaulted": label,
        }
    )
    bank.loc[count - 5 :, ["mobile", "mail"]] = None
    shop = pd.DataFrame(
        {
            "tel": [f"+86 {each[:3]} {each[3:7]} {each[7:]}" for each in phones],
            "address": [each.lower() for each in emails],
            "who": range(count),
            "spend": signal,
        }
    )
    shop.loc[100:, "tel"] = None
    shop.loc[: count - 101, "address"] = None
    return bank, shop.sample(frac=1, random_state=3).reset_index(drop=True)


def bank_of(table: pd.DataFrame, results: Path, **more: Any) -> TabularHost:
    given = SMALL | {"label": "defaulted", "id_recipe": RECIPE} | more
    return TabularHost(
        "bank", table.drop(columns="who"), ids=["mobile", "mail"], results_dir=results, **given
    )


def shop_of(table: pd.DataFrame, results: Path, **more: Any) -> TabularCollaborator:
    given: dict[str, Any] = {"seed": 0, "id_recipe": "phone:US;email"} | more
    return TabularCollaborator(
        "shop", table.drop(columns="who"), ids=["tel", "address"], results_dir=results, **given
    )


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[TabularHost, TabularCollaborator, Simulation, Path]:
    results = tmp_path_factory.mktemp("runs")
    mine, theirs = people()
    bank, shop = bank_of(mine, results), shop_of(theirs, results)
    done = simulate(bank, [shop], task_id="t", baselines=["pooled"])
    return bank, shop, done, results


@pytest.mark.slow
def test_both_parties_agree_on_the_pairs(trained: Any) -> None:
    bank, shop, done, _ = trained
    mine, theirs = people()
    ids = [*bank.train_ids, *bank.test_ids]
    assert (bank.train_ids, bank.test_ids) == (shop.train_ids, shop.test_ids)
    at_bank = bank._party.table.positions(ids)
    at_shop = shop._party.table.positions(ids)
    assert mine["who"].to_numpy()[at_bank].tolist() == theirs["who"].to_numpy()[at_shop].tolist()
    assert len(set(at_bank.tolist())) == len(set(at_shop.tolist())) == 155  # each row once
    assert done.results["bank"].ids == done.results["shop"].ids == 155
    by_key = np.bincount([key_of(each) for each in ids])
    assert by_key.tolist() == [100, 55]


@pytest.mark.slow
def test_load_further_ids_gives_only_rows_that_are_left(trained: Any) -> None:
    _, _, done, _ = trained
    asked = [m.message.count for m in done.received["shop"] if isinstance(m.message, PsiBegin)]
    answered = [m.message.count for m in done.received["bank"] if isinstance(m.message, PsiKey)]
    assert asked == [155, 55]
    assert answered == [100, 60]


def test_a_prediction_goes_by_the_same_keys(trained: Any) -> None:
    _, _, _, results = trained
    mine, theirs = people()
    rows = [3, 101, 150, 158]  # by phone, by e-mail, by e-mail, by neither
    some = mine[mine["who"].isin(rows)].sample(frac=1, random_state=1)
    host = bank_of(some.drop(columns="defaulted"), results, label=None)
    done = simulate_prediction(host, [shop_of(theirs, results)], task_id="t", models="best")
    frame = host.in_table_order(done.results["bank"])
    assert frame.columns.tolist() == ["mobile", "mail", "matched_by", "probability", "parties"]
    kept = [row for row in some["who"] if row != 158]
    assert frame["matched_by"].tolist() == ["mobile" if row < 100 else "mail" for row in kept]
    own = some[some["who"].isin(kept)]
    assert frame["mobile"].fillna("").tolist() == own["mobile"].fillna("").tolist()
    assert frame["mail"].fillna("").tolist() == own["mail"].fillna("").tolist()
    whole = simulate_prediction(
        bank_of(mine, results, label=None), [shop_of(theirs, results)], task_id="t", models="best"
    )
    scores = whole.results["bank"].set_index("id")["probability"]
    assert len(scores) == 155
    found = done.results["bank"].set_index("id")["probability"]
    assert found.to_dict() == pytest.approx(scores[found.index].to_dict(), abs=1e-6)


def test_rows_that_only_the_last_key_knows_are_predicted(trained: Any) -> None:
    _, _, _, results = trained
    mine, theirs = people()
    some = mine[mine["who"] == 120].assign(mobile=None)
    host = bank_of(some, results, label=None)
    done = simulate_prediction(host, [shop_of(theirs, results)], task_id="t")
    assert [unmarked(each) for each in done.results["bank"]["id"]] == ["person120@example.com"]


def test_what_goes_by_one_key_alone_is_refused(trained: Any) -> None:
    _, _, _, results = trained
    mine, theirs = people()
    for more in ({"ids": ["+8613800000003"]}, {"missing_party": "zero"}):
        with pytest.raises(ConfigError, match="several keys"):
            simulate_prediction(
                bank_of(mine, results, label=None), [shop_of(theirs, results)], task_id="t", **more
            )
    with pytest.raises(ConfigError, match="one key"):
        IdRecipe.parse("phone;email*2")
    with pytest.raises(ConfigError, match="give the recipe to the Host"):
        simulate_prediction(
            bank_of(mine, results, label=None, id_recipe=None),
            [shop_of(theirs, results)],
            task_id="t",
        )


@pytest.mark.parametrize("theirs", ["phone:CN", "email;phone:CN", "phone:CN;email;text"])
def test_another_recipe_is_refused_before_any_id_is_asked_for(theirs: str, tmp_path: Path) -> None:
    mine, other = people()
    columns = ["tel", "address", "who"][: IdRecipe.parse(theirs).columns]
    shop = TabularCollaborator(
        "shop", other, ids=columns, id_recipe=theirs, results_dir=tmp_path, duplicates="first"
    )
    if theirs.startswith("email"):
        other[["tel", "address"]] = other[["address", "tel"]].to_numpy()
        shop = TabularCollaborator(
            "shop", other, ids=columns, id_recipe=theirs, results_dir=tmp_path
        )
    if theirs == "phone:CN":
        shop = TabularCollaborator(
            "shop", other.dropna(), ids=columns, id_recipe=theirs, results_dir=tmp_path
        )
    with pytest.raises(ConfigError, match="agree on one"):
        simulate(bank_of(mine, tmp_path), [shop], task_id="t")


def test_a_party_without_a_recipe_lets_nobody_compare_its_columns_one_by_one(
    tmp_path: Path,
) -> None:
    mine, theirs = people()
    with pytest.raises(ConfigError, match="agree with a recipe of as many keys"):
        simulate(
            bank_of(mine, tmp_path, id_recipe="phone:CN;email"),
            [shop_of(theirs, tmp_path, id_recipe=None)],
            task_id="t",
        )


def test_nothing_is_left_for_the_second_key(tmp_path: Path) -> None:
    mine, theirs = people()
    kept = theirs[theirs["who"] < 100]
    mine = mine[mine["who"] < 100]
    done = simulate(bank_of(mine, tmp_path), [shop_of(kept, tmp_path)], task_id="t")
    assert done.results["shop"].ids == 100
    asked = [m.message.count for m in done.received["shop"] if isinstance(m.message, PsiBegin)]
    assert asked == [100, 1]  # one id that nobody has


@pytest.mark.slow
def test_ids_of_all_keys_count_against_the_budget(tmp_path: Path) -> None:
    mine, theirs = people()
    with pytest.raises(PSILimitError, match="max_peer_ids"):
        simulate(
            bank_of(mine, tmp_path), [shop_of(theirs, tmp_path, max_peer_ids=200)], task_id="t"
        )
    done = simulate(
        bank_of(mine, tmp_path), [shop_of(theirs, tmp_path, max_peer_ids=210)], task_id="t"
    )
    assert done.results["shop"].ids == 155


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_same_pairs(tmp_path: Path) -> None:
    mine, theirs = people()

    class Stopped(TabularHost):
        def on_round_end(self) -> None:
            if self.current_round == 2:
                raise HeteroFedError("stopped")

    table = mine.drop(columns="who")
    given = SMALL | {"label": "defaulted", "id_recipe": RECIPE, "results_dir": tmp_path}
    ids = ["mobile", "mail"]
    with pytest.raises(HeteroFedError):
        simulate(Stopped("bank", table, ids=ids, **given), [shop_of(theirs, tmp_path)], task_id="t")
    bank, shop = TabularHost("bank", table, ids=ids, **given), shop_of(theirs, tmp_path)
    done = simulate(bank, [shop], task_id="t", resume="require")
    assert not [m for m in done.received["shop"] if isinstance(m.message, PsiBegin)]
    whole = simulate(
        bank_of(mine, tmp_path / "whole"), [shop_of(theirs, tmp_path / "whole")], task_id="t"
    )
    assert (bank.train_ids, bank.test_ids) == (shop.train_ids, shop.test_ids)
    both = [each.results["bank"].models["infer_model"].read_bytes() for each in (done, whole)]
    assert both[0] == both[1]


def test_duplicates_and_rows_without_any_key(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "tel,mail\n+8613800000001,a@x.com\n+8613800000001,b@x.com\n,b@x.com\n,\n,c@x.com\n"
    )
    source, recipe = open_source(path), IdRecipe.parse("phone;email")
    with pytest.raises(IdError, match="the same id"):
        RowKeys.read(source, ["tel", "mail"], recipe)
    keys = RowKeys.read(source, ["tel", "mail"], recipe, duplicates="first")
    assert keys.ids(0) == ["+8613800000001"]
    free = keys.further({"+8613800000001"}, 1)  # the first row is matched, its e-mail is not asked
    assert [unmarked(each) for each in free] == ["b@x.com", "c@x.com"]
    assert keys.positions(free).tolist() == [1, 4]
    assert "2 rows have no id of their own" in " ".join(keys.notes)
    path.write_text("tel,mail,x\n,,1\n,,2\n")
    with pytest.raises(IdError, match="no id in the columns"):
        RowKeys.read(open_source(path), ["tel", "mail"], recipe)


def test_doubts_are_said_once_and_before_the_parties_meet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="heterofed")
    mine, theirs = people(60)
    mine = mine.iloc[:50].copy()
    mine["mobile"] = [f"+86 {each}" for each in mine["mobile"]]
    bank = TabularHost("bank", mine, ids="mobile", label="defaulted", results_dir=tmp_path, **SMALL)
    with pytest.raises(HeteroFedError):
        simulate(bank, [shop_of(theirs, tmp_path, id_recipe=None)], task_id="t")
    said = [each.getMessage() for each in caplog.records]
    doubts = [at for at, each in enumerate(said) if "look like phone numbers" in each]
    met = [at for at, each in enumerate(said) if "meeting" in each]
    assert len(doubts) == 1
    assert doubts[0] < max(met)  # the other party may have been first
    assert "138" not in " ".join(said)


@pytest.mark.slow
def test_a_training_with_next_to_no_common_id_says_which_recipes_to_try(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance = np.random.default_rng(0)
    mine = pd.DataFrame({"id": [f"{row:05}" for row in range(2000)]}).assign(
        x=chance.normal(size=2000), y=chance.integers(0, 2, 2000)
    )
    theirs = pd.DataFrame({"id": [str(row) for row in range(9990, 12_990)]}).assign(
        z=chance.normal(size=3000)
    )
    mine.loc[:9, "id"] = theirs["id"][:10].to_numpy()
    given: dict[str, Any] = {"results_dir": tmp_path, "ids": "id", "seed": 0}
    bank = TabularHost(
        "bank", mine, label="y", max_rounds=1, psi_protocol="ecdh", stratify=True, **given
    )
    shop = TabularCollaborator("shop", theirs, **given)
    simulate(bank, [shop], task_id="t")  # the Host alone splits, and the other is advised, too
    said = [each.getMessage() for each in caplog.records if "under 1 %" in each.getMessage()]
    assert len(said) == 2
    assert "10 of 2000 ids" in said[0]
    assert "integer, where ids are numbers" in said[0]


def test_a_party_with_clean_ids_hears_that_rows_are_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="heterofed")
    chance = np.random.default_rng(0)
    clean = pd.DataFrame({"id": [f"p{row:03}" for row in range(150)], "x": chance.normal(size=150)})
    clean["y"] = np.where(clean["x"] > 0, "a", "b")
    dirty = pd.DataFrame({"id": clean["id"], "z": chance.normal(size=150)})
    dirty.loc[::3, "id"] = [f"x-{each}" for each in dirty["id"][::3]]
    given: dict[str, Any] = {"results_dir": tmp_path, "ids": "id", "seed": 0}
    bank = TabularHost("bank", clean, label="y", max_rounds=1, psi_protocol="ecdh", **given)
    simulate(bank, [TabularCollaborator("shop", dirty, **given)], task_id="t")
    said = [each.getMessage() for each in caplog.records if "rows here" in each.getMessage()]
    assert len(said) == 2
    for each in said:
        assert "100 of 150 rows here are matched" in each
        assert "let the other parties run `heterofed table check`" in each
        assert "p000" not in each
    assert all(each.endswith(bank.overlap_advice()) for each in said)
