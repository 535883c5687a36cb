"""What a tabular task shows while it runs and afterwards: lines, files and the report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest

from heterofed import simulate
from heterofed.cli.app import cli
from heterofed.events import RoundEnded
from heterofed.report.gather import gather
from heterofed.report.render import rendered
from heterofed.reporting.console import round_line
from heterofed.reporting.log_lines import VARIABLE
from tests.identity.offices import Command
from tests.tabular.people import loans, written
from tests.tabular.test_tabular_task import bank_of, shop_of


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[RoundEnded], Path, Any]:
    results = tmp_path_factory.mktemp("runs")
    mine, theirs = loans()
    seen: list[Any] = []
    bank = bank_of(mine, results, callbacks=[seen.append], dropout=0.1)
    done = simulate(bank, [shop_of(theirs, results)], task_id="t")
    rounds = [each for each in seen if isinstance(each, RoundEnded)]
    return rounds, done.results["bank"].folder, bank


@pytest.mark.slow
def test_the_numbers_of_a_round_have_the_same_names_in_each(told: Any) -> None:
    rounds, folder, bank = told
    validation = pd.read_csv(folder / "validation.csv").to_dict("records")
    for one, row in zip(rounds, validation, strict=True):
        shown = {name: each for name, each in one.metrics.items() if "/" not in name}
        assert shown == pytest.approx(row)
    tested = {name: each for name, each in rounds[-1].metrics.items() if name not in validation[0]}
    assert tested["test/auc"] == pytest.approx(bank.evaluation["auc"])
    assert all(name.startswith("test/") for name in tested)
    assert all(type(each) in (int, float) for each in rounds[-1].metrics.values())
    assert f"  auc {validation[-1]['auc']:.4f}  " in round_line(rounds[-1])
    status = json.loads((folder / "status.json").read_text())
    assert status["metrics"]["auc"] == pytest.approx(validation[-1]["auc"])


@pytest.mark.slow
def test_the_report_says_no_odd_numbers(told: Any) -> None:
    _, folder, bank = told
    report = gather(folder)
    text = rendered(report, "md")
    plan = {each.name: each.value for each in report.plan}
    meanings = {each.name: each.meaning for each in report.plan}
    assert plan["max_rounds"] == "0"  # early stopping: the contract has no number of rounds
    assert "(0: as many as the Host decides)" in meanings["max_rounds"]
    assert "rounds: 2," in plan["agreed"]
    assert "dropout: 0.1," in plan["agreed"]
    assert "00000000" not in plan["agreed"]
    assert "interval" not in text
    assert "evaluation on test | value |\n| --- | ---: |\n" in text
    # The rows of the test are in the evaluation, which says all that test.csv does.
    assert {one.name for one in report.metrics} == {"validation", "train"}
    assert text.count(f"{bank.evaluation['ks']:.4g}") == 1


def all_commands(group: Any, name: str = "heterofed") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for each in group.commands.values():
        inner = f"{name} {each.name}"
        found |= all_commands(each, inner) if isinstance(each, click.Group) else {inner: each}
    return found


def test_every_command_that_meets_others_can_write_its_log_as_json() -> None:
    meets = {
        name: {one.name for one in each.params}
        for name, each in all_commands(cli).items()
        if any(one.name in ("join_timeout", "watch") for one in each.params)
    }
    assert len(meets) == 7
    assert [name for name, given in meets.items() if "log_format" not in given] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table", "train", "TABLE", "--task", "t", "--id", "custmer", "--label", "y"], "custmer"),
        (["table", "train", "TABLE", "--task", "t", "--label", "y"], "--id"),
        (["table", "overlap", "TABLE", "--task", "t", "--id", "nobody"], "nobody"),
        (["table", "predict", "TABLE", "--task", "t"], "train first"),
    ],
)
def test_an_error_is_a_json_record_too(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, os.environ.get(VARIABLE, ""))  # the option sets it
    (bank,) = written(tmp_path, loans=loans(60)[0])
    line = [str(bank) if each == "TABLE" else each for each in arguments]
    command(*line, "--log-format", "json")
    records = [json.loads(each) for each in command.err.splitlines()]
    assert said in records[-1]["message"]
    assert records[-1]["level"] == "error"
