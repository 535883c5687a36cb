"""A take-home model by command: two processes train and teach it, and one predicts by it alone."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.processes import Parties, PartyProcess, parties
from tests.identity.offices import open_offices
from tests.tabular.people import loans, written

PLAN = ["psi_protocol=ecdh", "take_home=true", "shuffle=true", "max_rounds=2"]


class Office:
    """Two parties of one task, with a table each."""

    def __init__(self, started: Parties, folder: Path) -> None:
        self._started, self._runs = started, folder / "runs"
        self.tables = written(folder, bank=loans(200)[0], shop=loans(200)[1])

    def both(self, at_bank: list[str], at_shop: list[str]) -> str:
        """What the bank prints, after both have ended well."""
        bank, shop = self.start("alice", 0, *at_bank), self.start("shop", 1, *at_shop)
        for each in (bank, shop):
            assert each.wait() == 0, each.output
        return bank.output

    def start(self, party: str, table: int, command: str, *more: str) -> PartyProcess:
        where = ["--task", "t", "--party", party, "--results", str(self._runs)]
        line = ["table", command, str(self.tables[table]), *where, *more]
        return self._started.start("-m", "heterofed", *line)


@pytest.mark.long
def test_a_model_is_taught_by_two_and_used_by_one(home: Path, tmp_path: Path) -> None:
    open_offices(home, ["shop"], task="t", plan=PLAN)
    with parties(home, tmp_path) as started:
        office = Office(started, tmp_path)
        learns = ["--id", "customer", "--label", "defaulted"]
        office.both(["train", *learns], ["train", "--role", "collaborator", "--id", "client"])
        predicts = ["predict", "--role", "collaborator"]
        printed = office.both(["take-home", "--json", "--seed", "0"], predicts)
        told = json.loads(printed.splitlines()[-1])
        assert told["metric"] == "auc"
        assert 0.0 < told["take_home"] <= 1.0
        assert 0.0 < told["joint"] <= 1.0
        out = tmp_path / "scores.csv"
        alone = office.start("alice", 0, "predict", "--take-home", "--out", str(out))
        assert alone.wait() == 0, alone.output
    mine = pd.read_csv(office.tables[0])
    scores = pd.read_csv(out)
    assert list(scores["customer"]) == list(mine["customer"])
    assert scores["probability"].between(0, 1).all()
    assert scores["probability"].nunique() > len(mine) / 2
