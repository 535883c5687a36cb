"""Every bad file gets one clear line, and stays as it was."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from heterofed.cli.table_check import check
from heterofed.errors import HeteroFedError
from tests.tabular.bad_files import BAD, GOOD, lines


def checked(path: Path, *arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(check, [str(path), *arguments])


def state(folder: Path) -> dict[str, bytes | None]:
    files = {each.name: each for each in folder.iterdir()}
    return {name: each.read_bytes() if each.is_file() else None for name, each in files.items()}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_gets_one_line(what: str, tmp_path: Path) -> None:
    name, make, says = BAD[what]
    path = tmp_path / name
    make(path)
    before = state(tmp_path)
    try:
        done = checked(path, "--id", "id", "--label", "y")
    except HeteroFedError as error:
        (said,) = str(error).splitlines()
    else:
        assert done.exit_code == 2, done.output
        said = next(line for line in done.output.splitlines() if line.startswith("error: "))
    assert re.search(says, said), said
    assert "Error" not in said.replace("(EOFError)", "")
    assert state(tmp_path) == before


def test_a_good_file_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(GOOD.replace("id,x,y", "id,x,[y]", 1), encoding="utf-8")
    done = checked(path, "--id", "id", "--label", "[y]")
    assert done.exit_code == 0
    assert "t.csv: 30 rows, 3 columns" in done.output
    assert "nothing is in the way" in done.output
    shown = [line.split() for line in done.output.splitlines() if line.startswith(("id", "x", "["))]
    assert [row[:4] for row in shown[:3]] == [
        ["id", "id", "0", "30"],
        ["x", "numeric", "0", "2"],
        ["[y]", "numeric", "0", "2"],
    ]


def test_json_and_what_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(lines("C{},7,red,0", "C{},7,blue,1", header="key,flat,colour,churned"))
    found = json.loads(checked(path, "--json").stdout)
    assert {each["name"]: each["use"] for each in found["columns"]} == {
        "key": "left out",
        "flat": "left out",
        "colour": "categories",
        "churned": "number, scaled",
    }
    assert any("--id ('key')" in note for note in found["notes"])
    assert "called like a label" in " ".join(found["columns"][3]["notes"])
    assert found["problems"] == []


def test_what_counts_as_missing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(lines("{},N/A,red,0", "{},2, - ,1", "NA{},,blue,1", header="id,x,colour,y"))
    done = checked(path, "--id", "id")
    missing = json.loads(checked(path, "--id", "id", "--json").stdout)["missing"]
    assert missing == {"N/A": 10, "-": 10, "": 10}
    assert "cells that count as missing: 30 (" in done.output
    assert all(each in done.output for each in ("'N/A': 10", "'-': 10", "empty: 10"))
    path.write_text(GOOD)
    assert "missing:" not in checked(path, "--id", "id").output


def test_repeated_ids_may_be_dropped_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(GOOD.replace("\n4,", "\n3,"))
    assert checked(path, "--id", "id").exit_code == 2
    first = checked(path, "--id", "id", "--duplicates", "first")
    assert first.exit_code == 0
    assert "29, 1 rows repeat one and are left out" in first.output
    assert checked(path, "--id", "id", "--duplicates", "many").exit_code == 2
    many = ("--duplicates", "many", "--id-recipe", "text*2")
    assert checked(path, "--id", "id", *many).exit_code == 0
