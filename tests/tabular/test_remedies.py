"""What a user of `heterofed table` is told to do when parties do not fit together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from heterofed import simulate
from heterofed.cli import table_tasks
from heterofed.cli.table import _show
from heterofed.cli.ways import COMMANDS
from heterofed.errors import ColumnError, ConfigError, FinalLookRefusedError, PartySettingsError
from heterofed.protocol.states import Role
from heterofed.rendezvous.backend import place_of
from heterofed.rendezvous.ways import as_a, call_for, started_by
from heterofed.tabular.ids import read_ids
from heterofed.tabular.sources import open_source
from tests.identity.offices import Command
from tests.tabular.bad_files import BAD
from tests.tabular.people import loans, written
from tests.tabular.test_tabular_task import bank_of, shop_of

AT_BANK = ("--id", "customer", "--label", "defaulted")
SOON = ("--join-timeout", "0.2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a training of a bank and a shop, as the command leaves it."""
    results = tmp_path_factory.mktemp("runs")
    mine, theirs = loans()
    bank = bank_of(mine, results, max_rounds=1)
    done = simulate(bank, [shop_of(theirs, results)], task_id="t")
    for name, ids in (("bank", ["customer"]), ("shop", ["client"])):
        given = msgspec.json.encode(table_tasks.Given(ids))
        (done.results[name].folder / table_tasks.GIVEN).write_bytes(given)
    return results


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    mine, theirs = loans()
    bank, shop = written(tmp_path, loans=mine, shop=theirs)
    return bank, shop


def by_command(at: Path, results: Path, name: str, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"table": None, "query": None, "delimiter": None, "encoding": None}
    given |= {"header": None, "ids": (), "max_rows_per_day": 1000, "requests": 1}
    given |= {"role": "host" if name == "bank" else "collaborator", "join_timeout": 60.0}
    given |= {"out": at.parent / "predictions.csv"}
    return table_tasks.predict(
        location=str(at), task="t", party=name, results=results, **given | more
    )


# -- who is who --------------------------------------------------------------------------------


def test_two_hosts_are_told_that_both_are(
    home: Path, tables: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    place = place_of("t", "host", Role.HOST, "train")
    line = ["table", "train", str(tables[0]), "--task", "t", *AT_BANK, *SOON]
    with place.listen() as endpoint:
        for more in ([], ["--party", "bank"]):
            assert command(*line, "--results", str(tmp_path / "runs"), *more) == 2
            assert "both sides are Hosts: start one with --role collaborator" in command.err
        endpoint.close()


def test_the_same_results_folder_is_that_of_another_host(
    home: Path, tables: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    from heterofed.runs.folder_lock import folder_lock

    results = tmp_path / "runs"
    line = ["table", "train", str(tables[0]), "--task", "t", "--results", str(results), *SOON]
    with folder_lock((results / "t" / "host").absolute(), 0):
        assert command(*line, *AT_BANK) == 2
    assert "give this party another name (--party)" in command.err
    assert "both sides are Hosts: start one with --role collaborator" in command.err


@pytest.mark.slow
def test_who_waits_in_vain_is_told_the_task_id_and_how_to_be_the_host(
    home: Path, tables: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    line = ["--task", "lonas", "--results", str(tmp_path / "runs"), *SOON]
    at_shop = ["--id", "client", "--role", "collaborator"]
    assert command("table", "train", str(tables[1]), *line, *at_shop) == 1
    assert "compare the task id ('lonas')" in command.err
    assert "start one with --role host" in command.err
    assert command("table", "train", str(tables[0]), *line, *AT_BANK) == 1
    assert "compare the task id ('lonas')" in command.err
    ids = tmp_path / "ids.txt"
    ids.write_text("a\nb\n")
    line = ["--task", "lonas", "--ids", str(ids), "--out", str(tmp_path / "out.txt"), *SOON]
    assert command("psi", *line, "--role", "collaborator") == 1
    assert "start one with --role initiator" in command.err


@pytest.mark.slow
def test_a_prediction_in_vain_names_the_command(
    home: Path, trained: Path, tables: tuple[Path, Path], command: Command
) -> None:
    line = ["--task", "t", "--party", "bank", "--results", str(trained), *SOON]
    assert command("table", "predict", str(tables[0]), *line) == 1
    assert "run `heterofed table predict` there" in command.err
    assert "serve_predictions" not in command.err


def test_every_purpose_has_its_method_and_its_command() -> None:
    assert call_for("predict") == "serve_predictions"
    assert as_a(Role.HOST) == "a Host's scheduler"
    with started_by(COMMANDS):
        assert call_for("overlap") == "`heterofed table overlap`"
        assert call_for("rehearse") == "rehearse"  # no command does that
    assert call_for("overlap") == "count_common"


# -- predictions -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_host_is_told_how_many_rows_have_no_prediction(
    home: Path,
    trained: Path,
    tables: tuple[Path, Path],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "heterofed")
    with ThreadPoolExecutor(2) as pool:
        host = pool.submit(by_command, tables[0], trained, "bank")
        pool.submit(by_command, tables[1], trained, "shop").result()
    found = host.result()
    rows = len(pd.read_csv(tables[0]))
    assert found["missing"] == rows - found["rows"] > 0
    said = capfd.readouterr().err
    assert f"{found['missing']} of the {rows} rows of loans.csv have no prediction" in said
    assert f"predicted {found['rows']} of {rows} rows" in caplog.text


CHANGED = {
    "bank": ("risk", "high", "row 8, column 'risk': this cell is no number"),
    "shop": ("since", "yesterday", "row 8, column 'since': this cell is no date"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_column_of_another_kind_is_named_before_anybody_is_met(
    name: str, home: Path, trained: Path, tables: tuple[Path, Path]
) -> None:
    column, cell, said = CHANGED[name]
    path = tables[name == "shop"]
    frame = pd.read_csv(path, dtype=str)
    frame.loc[7, column] = cell
    frame.to_csv(path, index=False)
    with pytest.raises(ColumnError, match=said) as caught:
        by_command(path, trained, name, join_timeout=0.2)
    assert not caught.value.begun


def test_every_cell_is_checked_and_infinity_is_none(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,{x},y\n" + "".join(f"{row},{row}.5,a\n" for row in range(9)))
    source = open_source(path)
    kinds = [each for each in _columns(source) if each.name != "id"]
    source.typed(kinds).check_cells()
    path.write_text(path.read_text().replace("4.5", "inf"))
    with pytest.raises(ColumnError, match=r"row 5, column '\{x\}': infinity"):
        open_source(path).typed(kinds).check_cells()


def _columns(source: Any) -> Iterator[Any]:
    from heterofed.tabular.inspect import inspect
    from heterofed.tabular.kinds import Column

    for each in inspect(source).columns:
        yield Column(name=each.name, kind=each.kind, format=each.format)


# -- what columns are worth ----------------------------------------------------------------------


def test_a_host_that_measures_alone_is_told_what_to_do(home: Path, tmp_path: Path) -> None:
    mine, theirs = loans()
    bank = bank_of(mine, tmp_path, importance=True)
    with ThreadPoolExecutor(2) as pool:
        host = pool.submit(bank.launch_task, "t")
        shop = pool.submit(shop_of(theirs, tmp_path).launch_task, "t")
        with pytest.raises(ConfigError, match="--importance") as own:
            shop.result()
        with pytest.raises(FinalLookRefusedError, match="--importance") as caught:
            host.result()
    assert isinstance(caught.value, PartySettingsError)
    assert caught.value.party == "shop"
    assert own.value.begun
    assert caught.value.begun


def test_what_columns_are_worth_is_shown_in_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "importance.csv"
    rows = [f"host,x{at},{(40 - at) / 100}" for at in range(30)]
    path.write_text("\n".join(["party,column,drop", *rows, "shop,1,nan", ""]))
    found = table_tasks._importance(path)
    assert found[0] == {"party": "host", "column": "x0", "drop": 0.4}
    assert found[-1] == {"party": "shop", "column": "1", "drop": None}
    _show({"task": "t", "importance": found}, as_json=False)
    shown = capsys.readouterr().out
    assert "host x0" in shown
    assert "and 11 more in importance.csv" in shown


# -- several columns of ids ----------------------------------------------------------------------


def test_columns_that_are_joined_for_want_of_a_recipe_are_named_so(
    tables: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    two = ("--id", "customer", "--id", "city")
    assert command("table", "check", str(tables[0]), *two) == 0
    assert "2 columns are joined to one id" in command.out
    assert "--id-recipe 'text;text'" in command.out
    assert command("table", "check", str(tables[0]), *two, "--id-recipe", "text+text") == 0
    assert "joined to one id" not in command.out
    path = tmp_path / "people.csv"
    path.write_text("phone,email,y\n1,,0\n2,b@x.com,1\n")
    with pytest.raises(Exception, match=r"the id is missing; to match .* several keys"):
        read_ids(open_source(path), ["phone", "email"])


# -- exit codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", BAD)
def test_bad_files_end_in_2_and_leave_nothing(
    what: str, home: Path, tmp_path: Path, command: Command
) -> None:
    name, make, _ = BAD[what]
    path, results = tmp_path / name, tmp_path / "runs"
    make(path)
    given = ["--task", "t", "--results", str(results), *SOON]
    assert command("table", "train", str(path), "--id", "id", "--label", "y", *given) == 2
    assert len(command.err.splitlines()) <= 2
    assert not results.exists()


@pytest.mark.parametrize(
    "more",
    [
        ["--id", "nobody", "--label", "y"],
        ["--id", "id", "--label", "y", "--id-recipe", "phone:XX"],
        ["--id", "id", "--label", "y", "--id-recipe", "integer;email"],
        ["--id", "id", "--label", "y", "--column", "z"],
        ["--id", "id", "--label", "y", "--model", "forest"],
        ["--id", "id", "--label", "y", "--test", "2"],
    ],
)
def test_wrong_columns_and_recipes_end_in_2(
    more: list[str], home: Path, tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,x,y\n" + "".join(f"{row},{row}.5,{row % 2}\n" for row in range(40)))
    assert command("table", "train", str(path), "--task", "t", *more, *SOON) == 2
