"""Rows are predicted by the site that has them, with the same numbers as by the joined model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from heterofed import errors as e
from heterofed import simulate, simulate_prediction
from heterofed.hetero_nn.serve.serve_limits import ServeLimits
from tests.e2e.tiny import run
from tests.hetero_nn.served import Office
from tests.hetero_nn.sites_tiny import (
    CUT,
    F64,
    IDS,
    Bank,
    Party,
    joined,
    parties,
    site_of,
    split,
    table,
)
from tests.identity.offices import open_offices

SITES = ("north", "south", "west")
TEST = IDS[-10:]


class Predicting(Bank):
    """A Host that predicts the probability of the second class."""

    def predict_a_batch(self, feature_projection: dict[str, Tensor]) -> Tensor:
        fused = torch.cat(list(feature_projection.values()), dim=1)
        found: Tensor = self.infer_model(fused).softmax(dim=1)[:, 1]
        return found

    def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Any:
        return self.features(feature_model, predict_ids)


def made(folder: Path, **settings: Any) -> tuple[Predicting, list[Party]]:
    bank, others = parties(folder, SITES, bank_class=Predicting, max_rounds=1, **settings)
    return bank, others  # type: ignore[return-value]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a finished run of a bank, a lab and three sites of a shop."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFED_HOME", str(folder / "home"))
        simulate(*made(folder), task_id="sites")
    return folder


def expected(ids: list[str], *, without: str | None = None) -> list[float]:
    """What the joined model predicts, where zeros may stand for the rows of a site."""
    _, models = joined([sorted(split(IDS)[0])])
    parts = []
    for key in ("bank", "lab", "shop"):
        columns = table(key)
        found = models[key](torch.stack([columns[each] for each in ids]))
        if key == "shop":
            lost = torch.tensor([site_of(each, SITES) == without for each in ids])
            found = torch.where(lost[:, None], torch.zeros(CUT, dtype=F64), found)
        parts.append(found)
    with torch.no_grad():
        scores: Tensor = models["infer"](torch.cat(parts, dim=1)).softmax(dim=1)[:, 1]
    return scores.tolist()


@pytest.mark.usefixtures("home")
def test_each_id_is_answered_by_the_site_that_has_it(trained: Path) -> None:
    bank, others = made(trained)
    ids = [*IDS[40:70:3], *TEST]
    done = simulate_prediction(bank, others, task_id="sites", ids=ids)
    frame = done.results["bank"]
    assert list(frame["id"]) == ids
    torch.testing.assert_close(frame["prediction"].tolist(), expected(ids), rtol=0, atol=1e-10)
    sites = [site_of(each, SITES) for each in ids]
    assert list(frame["parties"]) == [f"bank+lab+shop.{site}" for site in sites]
    assert len(set(sites)) > 1
    counts = {site: done.results[f"shop.{site}"] for site in SITES}
    assert counts == {site: sites.count(site) for site in SITES}


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_rows_of_a_site_that_does_not_come(trained: Path) -> None:
    bank, others = made(trained)
    there = [each for each in others if each.feature_key != "shop.north"]
    given: Any = {"task_id": "sites", "ids": TEST}
    with pytest.raises(e.MissingPartyError, match=r"leaves out shop\.north"):
        simulate_prediction(bank, there, **given)
    done = simulate_prediction(bank, there, **given, missing_party="zero")
    frame, wanted = done.results["bank"], expected(TEST, without="north")
    torch.testing.assert_close(frame["prediction"].tolist(), wanted, rtol=0, atol=1e-10)
    away = [each == "bank+lab" for each in frame["parties"]]
    assert away == [site_of(each, SITES) == "north" for each in TEST]
    assert any(away)


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_ids_that_no_site_has_or_two_have(trained: Path) -> None:
    bank, others = made(trained)
    lost = others[1].columns = dict(others[1].columns)
    assert site_of(IDS[0], SITES) == "north"
    del lost[IDS[0]]
    with pytest.raises(e.MissingPartyError, match="1 of the 3 ids to predict are not at all"):
        simulate_prediction(bank, others, task_id="sites", ids=IDS[:3])
    done = simulate_prediction(bank, others, task_id="sites", ids=IDS[:3], missing_party="mean")
    assert done.results["bank"]["parties"].iloc[0] == "bank+lab"
    others[1].columns = others[2].columns = table("shop")
    others[3].columns = {each: others[1].columns[each] for each in IDS[3:]}
    with pytest.raises(e.SitesOverlapError, match="3 ids are at more than one site of shop"):
        simulate_prediction(bank, others, task_id="sites", ids=IDS[:3])
    bank, _ = made(trained, sites_overlap="first")
    found = simulate_prediction(bank, others, task_id="sites", ids=IDS[:3]).results["bank"]
    torch.testing.assert_close(found["prediction"].tolist(), expected(IDS[:3]), rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_a_party_that_is_no_site_cannot_answer_for_one(trained: Path) -> None:
    bank, others = made(trained)
    whole = Party(trained, "shop.north", IDS)
    with pytest.raises(e.ConfigError, match=r"is no site here and a site of shop in the plan"):
        simulate_prediction(bank, [others[0], whole, *others[2:]], task_id="sites", ids=TEST)


@pytest.mark.slow
def test_rows_are_served_by_the_site_that_has_them(home: Path, tmp_path: Path) -> None:
    """Over TCP with keys, where the file lists the sites and the Host's constructor the same."""
    names = ["lab", *(f"shop.{site}" for site in SITES)]
    listed = [f'"{name}"' for name in names[1:]]
    sites = f'[{{"role": "shop", "parties": [{", ".join(listed)}]}}]'
    terms = ["max_rounds=1", "psi_protocol=ecdh", "batch_size=8", "announced_split=true"]
    open_offices(home, names, host="bank", plan=[*terms, f"sites={sites}"])
    bank, others = made(tmp_path)
    run(bank, *others)
    bank, others = made(tmp_path)
    office = Office(bank, others, ServeLimits(max_rows_per_day=100))
    scores = office.ask(*TEST)
    office.end()
    torch.testing.assert_close(scores.columns["prediction"], expected(TEST), rtol=0, atol=1e-10)
    assert scores.parties == [f"bank+lab+shop.{site_of(each, SITES)}" for each in TEST]
