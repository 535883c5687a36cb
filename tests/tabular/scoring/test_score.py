"""A table that is scored over a standing link has the predictions of `predict`, also in parts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofed import simulate, simulate_prediction
from heterofed.errors import RequestError
from heterofed.hetero_nn.serve.collaborator import serve_rows
from heterofed.hetero_nn.serve.serve_limits import ServeLimits
from heterofed.tabular import TabularCollaborator, TabularHost
from heterofed.tabular.scoring.stream import score
from tests.hetero_nn.served import Serves
from tests.identity.offices import open_offices
from tests.tabular.people import loans

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


class Killed(BaseException):
    """Ends a run in the middle."""


class Site:
    """A trained model of two tables, and a shop that serves."""

    def __init__(self, folder: Path) -> None:
        self._results = folder / "runs"
        self.mine, self.theirs = loans(200)
        self.mine["customer"] = " " + self.mine["customer"].str.lower() + "  "
        learns: dict[str, Any] = {"label": "defaulted", "max_rounds": 1, "psi_protocol": "ecdh"}
        simulate(self.bank(**learns), [self.shop()], task_id="t")
        self.stop = threading.Event()
        self.limits = ServeLimits(max_rows_per_day=10_000)

    def bank(self, **more: Any) -> TabularHost:
        given = {"label": None, "results_dir": self._results, "join_timeout": 0, **more}
        recipe = "text:lower"
        return TabularHost("alice", self.mine, ids="customer", id_recipe=recipe, **given)

    def shop(self) -> TabularCollaborator:
        given: dict[str, Any] = {"results_dir": self._results, "join_timeout": 60}
        return TabularCollaborator("shop", self.theirs, ids="client", **given)

    def serve(self) -> Serves:
        return Serves(serve_rows, self.shop(), "t", self.limits, stop=self.stop)

    def predicted(self) -> pd.DataFrame:
        ids = sorted(set(self.as_matched(self.mine["customer"])) & self.served())
        done = simulate_prediction(self.bank(), [self.shop()], task_id="t", ids=ids, models="best")
        frame: pd.DataFrame = done.results["alice"]
        return frame.set_index("id")

    def as_matched(self, ids: pd.Series[str]) -> list[str]:
        return [each.strip().lower() for each in ids]

    def served(self) -> set[str]:
        return set(self.as_matched(self.theirs["client"]))


@pytest.fixture
def site(home: Path, tmp_path: Path) -> Iterator[Site]:
    open_offices(home, ["shop"], task="t", plan=["psi_protocol=ecdh"])
    made = Site(tmp_path)
    yield made
    made.stop.set()


@pytest.mark.parametrize("name", ["whole.csv", "whole.parquet"])
def test_a_killed_scoring_goes_on_and_makes_the_same_file(
    site: Site, tmp_path: Path, name: str
) -> None:
    serves = site.serve()
    whole, out = tmp_path / name, tmp_path / f"parts-{name}"
    rows, predicted = score(site.bank(), "t", whole, rows_at_once=32)
    read = pd.read_csv if name == "whole.csv" else pd.read_parquet
    found = read(whole)
    wanted = site.predicted()
    assert (rows, predicted) == (len(site.mine), len(found)) == (190, len(wanted))
    own = site.mine["customer"]
    common = [each for each in own if each.strip() in site.served()]
    assert list(found["customer"]) == common  # in the order of the table, and as it writes them
    right = wanted.loc[site.as_matched(found["customer"])]
    assert list(found["probability"]) == pytest.approx(list(right["probability"]), abs=1e-5)

    def kill(done: int, _all: int) -> None:
        if done > 64:
            raise Killed

    with pytest.raises(Killed):
        score(site.bank(), "t", out, rows_at_once=32, progress=kill)
    assert not out.exists()
    seen: list[int] = []
    score(
        site.bank(),
        "t",
        out,
        rows_at_once=32,
        progress=lambda done, _all: seen.append(done),
    )
    assert seen[-1] == rows
    assert out.read_bytes() == whole.read_bytes()
    site.stop.set()
    assert serves.error is None


def test_what_a_limit_refuses_can_go_on_later(site: Site, tmp_path: Path) -> None:
    site.limits = ServeLimits(max_rows_per_day=100, max_age=0)
    site.serve()
    out = tmp_path / "out.csv"
    with pytest.raises(RequestError) as caught:
        score(site.bank(), "t", out, rows_at_once=32)
    assert caught.value.code == "limit"
    assert 2 <= len(list((tmp_path / "out.csv.parts").glob("0*"))) <= 3
