"""`heterofed table`: from two tables to predictions by commands, and what is refused before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from heterofed import ConfigError, simulate
from heterofed.cli import table_tasks
from heterofed.cli.app import cli
from heterofed.errors import HeteroFedError
from tests.e2e.processes import Parties
from tests.identity.offices import free_port
from tests.tabular.fate_files import numbers, svmlight, tag_value, with_header
from tests.tabular.people import loans, written
from tests.tabular.test_keys import people


def heterofed(*arguments: str | Path) -> Any:
    """The command in this process; gives its result, with what it raised."""
    return CliRunner().invoke(cli, list(map(str, arguments)))


def command(home: dict[str, Any], *arguments: str) -> str:
    """What the command prints at a party with this home."""
    done = CliRunner().invoke(cli, list(arguments), env=home, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_from_two_files_to_predictions(parties: Parties, tmp_path: Path) -> None:
    mine, theirs = loans()
    mine["customer"] = "0" + mine["customer"].str.lower() + "  "
    theirs["client"] = "0 " + theirs["client"]
    bank, shop = written(tmp_path, loans=mine, shop=theirs)
    out, results = tmp_path / "predictions.csv", str(tmp_path / "runs")
    common = ["--task", "loans", "--results", results, "--join-timeout", "90", "--json"]
    learns = ["--id", "customer", "--id-recipe", "text:nospace", "--label", "defaulted"]
    outcomes = []
    for command, at_host, at_shop in (
        (
            "train",
            [*learns, "--rounds", "3", "--recording"],
            ["--id", "client", "--leave-out", "notes", "--record"],
        ),
        ("predict", ["--out", str(out)], []),
    ):
        line = ["-m", "heterofed", "table", command]
        other = parties.start(*line, str(shop), *common, "--role", "collaborator", *at_shop)
        host = parties.start(*line, str(bank), *common, *at_host)
        assert (host.wait(), other.wait()) == (0, 0), host.output + other.output
        outcomes.append([json.loads(each.output.splitlines()[-1]) for each in (host, other)])
    (trained, _), (predicted, served) = outcomes
    assert 0 < trained["metrics"]["auc"] <= 1
    assert trained["rounds"] == 3
    frame = pd.read_csv(out)
    assert len(frame) == predicted["rows"] == served["rows"] == trained["ids"]
    assert frame.columns.tolist() == ["customer", "probability", "parties"]
    served_ids = set(theirs["client"].str.replace(" ", "").str.lower())
    kept = [each for each in mine["customer"] if each.strip() in served_ids]
    assert (
        frame["customer"].tolist() == kept
    )  # in the order of the Host's table, and as it has them
    tested = pd.read_csv(tmp_path / "runs" / "loans" / "host" / "scores.csv")
    assert tested.columns.tolist() == ["id", "label", "score", "customer"]
    assert tested["customer"].str.strip().tolist() == tested["id"].tolist()
    assert set(tested["customer"]) < set(mine["customer"])
    for party in ("host", "collaborator"):
        assert (tmp_path / "runs" / "loans" / party / "best_feature_model.pt").exists()
    assert (tmp_path / "runs" / "loans" / "host" / "evaluation.json").exists()
    recorded = tmp_path / "runs" / "loans" / "collaborator"
    place = ["--round", "3", "--batch", "2"]
    again = parties.start("-m", "heterofed", "replay", str(recorded), *place)
    assert again.wait() == 0, again.output
    assert "the same, bit for bit" in again.output
    assert not (tmp_path / "runs" / "loans" / "host" / "record").exists()


def test_a_record_that_the_host_does_not_allow_is_refused(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the API: before any id is sent."""
    seen: dict[str, Any] = {}

    def launched(scheduler: Any, *_: Any, **__: Any) -> dict[str, Any]:
        seen[scheduler.feature_key] = scheduler
        return {}

    monkeypatch.setattr(table_tasks, "_launched", launched)
    bank, shop = written(tmp_path, loans=loans()[0], shop=loans()[1])
    common = ["--task", "t", "--results", str(tmp_path / "runs"), "--record"]
    assert heterofed("table", "train", shop, *common, "--role", "collaborator", "--id", "client")
    terms = ["--id", "customer", "--label", "defaulted"]
    assert not heterofed("table", "train", bank, *common[:-1], *terms).exception
    done = heterofed(
        "table", "train", shop, *common, "--role", "collaborator", "--id", "client", "--recording"
    )
    assert "--recording: leave it out; the Host decides" in done.output
    with pytest.raises(ConfigError, match="the terms do not allow it"):
        simulate(seen["host"], [seen["collaborator"]], task_id="t")
    assert not list(tmp_path.rglob("*.record"))


@pytest.mark.long
@pytest.mark.slow
def test_three_parties_by_command(parties: Parties, tmp_path: Path) -> None:
    table, label = numbers(200)
    files = {
        "host": with_header(tmp_path / "a.csv", table[["x0", "x1", "x2", "x3"]], label),
        "tags": tag_value(tmp_path / "b.csv", table[["x4", "x5", "x6", "x7"]]),
        "sparse": svmlight(tmp_path / "c.csv", table[["x8", "x9", "x10", "x11"]]),
    }
    common = ["--task", "t", "--results", str(tmp_path / "runs"), "--join-timeout", "90", "--json"]
    only = {"train": ["--id", "id", "--label", "y", "--rounds", "2", "--parties", "2"]}
    only["predict"] = ["--out", str(tmp_path / "predictions.csv")]
    for command in ("train", "predict"):
        started = {}
        for name, path in files.items():
            line = ["-m", "heterofed", "table", command, str(path), *common]
            line += ["--party", name]
            if name == "host":
                line += only[command]
            else:
                line += ["--role", "collaborator", *(["--id", "c1"] if command == "train" else [])]
            started[name] = parties.start(*line)
        assert {each.wait() for each in started.values()} == {0}, started["host"].output
        found = {name: json.loads(each.output.splitlines()[-1]) for name, each in started.items()}
    assert {each["rows"] for each in found.values()} == {200}
    assert "c1, c2, and c2 holds the tags of a line (found out" in started["tags"].output
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 200


@pytest.mark.long
@pytest.mark.parametrize("collaborators", [1, 2])
def test_parties_with_a_task_file_each(
    parties: Parties, tmp_path: Path, collaborators: int
) -> None:
    table, label = numbers(200)
    files = {"bank": with_header(tmp_path / "a.csv", table[["x0", "x1", "x2", "x3"]], label)}
    for number, name in enumerate(["shop", "clinic"][:collaborators]):
        columns = [f"x{4 * number + 4 + at}" for at in range(4)]
        files[name] = with_header(tmp_path / f"{name}.csv", table[columns], None)
    homes: dict[str, dict[str, Any]] = {
        name: {"HETEROFED_HOME": str(tmp_path / "homes" / name)} for name in files
    }
    keys = {name: command(homes[name], "keys", "new", name).splitlines()[0] for name in files}
    others = [name for name in files if name != "bank"]
    (made,) = command(
        homes["bank"],
        *("task", "new", "t", "--host", "bank"),
        *("--address", f"tcp://127.0.0.1:{free_port()}"),
        *(each for name in others for each in ("--collaborator", f"{name}={keys[name]}")),
        *("--table", "--plan", "max_rounds=2"),
    ).split()
    for name in others:
        command(homes[name], "task", "accept", made, "--yes")
    common = ["--task", "t", "--results", str(tmp_path / "runs"), "--join-timeout", "90", "--json"]
    ids, other = ["--id", "id"], ["--role", "collaborator"]
    for verb, at_bank, elsewhere in (
        ("overlap", ids, [*other, *ids]),
        ("train", [*ids, "--label", "y"], [*other, *ids]),
        ("predict", ["--out", str(tmp_path / "predictions.csv")], other),
    ):
        started = {}
        for name, path in files.items():
            line = ["-m", "heterofed", "table", verb, str(path), *common]
            line += at_bank if name == "bank" else elsewhere
            started[name] = parties.start(*line, **homes[name])
        codes = {name: each.wait() for name, each in started.items()}
        assert set(codes.values()) == {0}, "\n".join(each.output for each in started.values())
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 200


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--id", "customer"], "--label"),
        (["--id", "customer", "--label", "defaulted", "--role", "collaborator"], "--label"),
        (["--id", "customer", "--role", "collaborator", "--rounds", "3"], "--rounds"),
        (["--id", "customer", "--label", "y", "--column", "a", "--leave-out", "b"], "not both"),
        (["--label", "defaulted"], "--id"),
        (["--id", "customer", "--label", "y", "--rounds", "0"], "--rounds"),
        (["--id", "customer", "--label", "y", "--model", "forest"], "--model"),
    ],
)
def test_wrong_usage_is_told_before_the_table_is_read(more: list[str], said: str) -> None:
    done = heterofed("table", "train", "nowhere.csv", "--task", "t", *more)
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--id", "custmer", "--label", "defaulted"], "did you mean 'customer'"),
        (["--id", "customer", "--label", "default"], "did you mean 'defaulted'"),
        (["--id", "customer", "--label", "defaulted", "--leave-out", "zip"], "'zip'"),
        (["--id", "customer", "--label", "risk", "--kind", "counts"], "no counts"),
        (["--id", "customer", "--label", "city", "--kind", "binary"], "3 classes"),
    ],
)
def test_what_the_table_does_not_have_is_told_before_anybody_is_met(
    more: list[str], said: str, tmp_path: Path
) -> None:
    (bank,) = written(tmp_path, loans=loans(60)[0])
    done = heterofed("table", "train", bank, "--task", "t", "--results", tmp_path / "runs", *more)
    assert isinstance(done.exception, HeteroFedError)
    assert said in str(done.exception)
    assert not (tmp_path / "runs").exists()


def test_predicting_without_a_training(tmp_path: Path) -> None:
    (bank,) = written(tmp_path, loans=loans(60)[0])
    done = heterofed("table", "predict", bank, "--task", "t", "--results", tmp_path / "runs")
    assert "train first" in str(done.exception)
    done = heterofed("table", "predict", bank, "--task", "t", "--requests", "2")
    assert done.exit_code == 2
    assert "--requests" in done.output


@pytest.mark.long
def test_rows_are_matched_by_phone_then_by_mail_and_columns_are_measured(
    parties: Parties, tmp_path: Path
) -> None:
    mine, theirs = people()
    bank, shop = written(tmp_path, loans=mine.drop(columns="who"), shop=theirs.drop(columns="who"))
    out, results = tmp_path / "predictions.csv", str(tmp_path / "runs")
    common = ["--task", "loans", "--results", results, "--join-timeout", "90", "--json"]
    recipe = ["--id-recipe", "phone:CN;email", "--importance"]
    outcomes = []
    for command, at_host, at_shop in (
        (
            "train",
            [*("--id", "mobile", "--id", "mail", "--label", "defaulted", "--rounds", "2"), *recipe],
            ["--id", "tel", "--id", "address", *recipe],
        ),
        ("predict", ["--out", str(out)], []),
    ):
        line = ["-m", "heterofed", "table", command]
        other = parties.start(*line, str(shop), *common, "--role", "collaborator", *at_shop)
        host = parties.start(*line, str(bank), *common, *at_host)
        assert (host.wait(), other.wait()) == (0, 0), host.output + other.output
        assert "e-mail addresses" not in host.output  # the recipe knows that they are
        outcomes.append(json.loads(host.output.splitlines()[-1]))
    trained, predicted = outcomes
    assert trained["ids"] == predicted["rows"] == 155
    frame = pd.read_csv(out)
    assert frame["matched_by"].value_counts().to_dict() == {"mobile": 100, "mail": 55}
    importance = pd.read_csv(tmp_path / "runs" / "loans" / "collaborator" / "importance.csv")
    assert importance["column"].tolist() == ["spend"]
