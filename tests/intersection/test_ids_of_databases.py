"""Ids of `psi` and `psi-set create` from a database: read once, checked, and no secret shown."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

import psi
from heterofed.cli import psi as command_psi
from heterofed.errors import ConfigError
from heterofed.tabular.sources import sql
from tests.identity.offices import Command

pytestmark = pytest.mark.usefixtures("home")

SECRET = "anna"  # an id, which no message may show
SERVER = ["--ids", "postgresql://ann:hunter2@127.0.0.1:1/b?password=hunter2"]
ROWS = [("007", "Köln"), (SECRET, 'a "b",\r\nc'), ("x\ry", None), ("8", "")]


def changed(path: Path, *statements: str, rows: list[tuple[Any, ...]] = []) -> None:  # noqa: B006
    base = sqlite3.connect(path)
    for each in statements:
        base.execute(each)
    base.executemany("INSERT INTO people VALUES (?, ?)", rows)
    base.commit()
    base.close()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.db"
    changed(path, "CREATE TABLE people (id, town)", rows=ROWS)
    return path


def run_psi(role: Any, out: Path, ids: Path | str, **source: Any) -> dict[str, Any]:
    return command_psi.run_psi(
        task="t", role=role, party=None, parties=1, ids=ids, id_column="id", protocol="ecdh",
        max_peer_ids=100, out=out, join_timeout=30, fresh=False, **source,
    )  # fmt: skip


def test_rows_are_those_that_were_read(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both read a database, whose rows are gone as soon as both have read them."""
    launch: Callable[..., None] = command_psi._launch
    both_have_read = Barrier(2, action=lambda: changed(base, "DELETE FROM people"), timeout=60)

    def late(*given: Any, **more: Any) -> None:
        both_have_read.wait()
        launch(*given, **more)

    monkeypatch.setattr(command_psi, "_launch", late)
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    query = "SELECT town AS place, id FROM people WHERE id <> '8' ORDER BY town IS NULL, id DESC"
    address = f"sqlite:///{base}"
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run_psi, "collaborator", there, address, table="people")
        mine = run_psi("initiator", here, address, query=query)
        assert mine["matched"] == other.result()["matched"] == 3
    assert mine["ids"] == 3
    rows = [("place", "id"), *((town or "", each) for each, town in (ROWS[1], ROWS[0], ROWS[2]))]
    with here.open(newline="") as file:
        assert list(map(tuple, csv.reader(file))) == rows
    assert list(psi.column(there, "id")) == [each for each, _ in ROWS[:3]]


def test_a_stored_set_of_a_database(base: Path, tmp_path: Path, command: Command) -> None:
    create = ("psi-set", "create", str(tmp_path / "set"), "--name", "n", "--column", "id")
    assert command(*create, "--ids", f"sqlite:///{base}", "--table", "people") == 0
    assert psi.StoredSet(tmp_path / "set").count == len(ROWS)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ((None, ""), "row 4 (from 0) is NULL"),
        ((1.5, ""), "row 4 (from 0) is of type float"),
        ((b"z", ""), "row 4 (from 0) is of type bytes"),
        ((SECRET, ""), "repeated"),
    ],
)
def test_ids_that_cannot_be_used(
    row: tuple[Any, ...], says: str, base: Path, tmp_path: Path, command: Command
) -> None:
    changed(base, rows=[row])
    ids = ("--ids", f"sqlite:///{base}", "--table", "people", "--column", "id")
    for line in (
        ("psi", "--task", "t", "--role", "initiator", "--out", str(tmp_path / "out"), *ids),
        ("psi-set", "create", str(tmp_path / "set"), "--name", "n", *ids),
    ):
        assert command(*line) == 2
        told = " ".join(command.err.split())
        assert says in told
        assert "table people" in told
        assert "--query" in told
        assert SECRET not in told
    assert sorted(each.name for each in tmp_path.iterdir() if each.name != "home") == ["base.db"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (["--ids", "sqlite:///BASE", "--column", "id"], "give --table or --query"),
        (["--ids", "sqlite:///BASE", "--table", "people"], "with --column"),
        (["--ids", "sqlite:///BASE", "--table", "folk", "--column", "id"], "no table 'folk'"),
        (["--ids", "sqlite:///BASE", "--table", "people", "--column", "no"], "one column 'no'"),
        (["--ids", "sqlite:///BASE", "--query", "SELEC 1", "--column", "id"], "syntax error"),
        (["--ids", "sqlite:///BASE.no", "--table", "t", "--column", "id"], "there is no database"),
        (["--ids", "BASE", "--table", "t", "--column", "id"], "--ids sqlite:///"),
        (["--ids", "nosuch://ann:hunter2@h/b", "--table", "t", "--column", "id"], "no address"),
        (
            [*SERVER, "--table", "t", "--column", "id"],
            "127.0.0.1",
        ),
    ],
)
def test_sources_that_cannot_be_read(
    source: list[str], says: str, base: Path, tmp_path: Path, command: Command
) -> None:
    source = [each.replace("BASE", str(base)) for each in source]
    assert command("psi-set", "create", str(tmp_path / "set"), "--name", "n", *source) == 2
    told = " ".join(command.err.split())
    assert says in told
    assert "hunter2" not in told + command.out
    assert not (tmp_path / "set").exists()


def test_the_result_does_not_replace_the_database(base: Path) -> None:
    before = base.read_bytes()
    with pytest.raises(ConfigError, match="is the file with the ids"):
        run_psi("initiator", base, f"sqlite:///{base}", table="people")
    assert base.read_bytes() == before


def test_messages_of_databases_show_no_value(base: Path, tmp_path: Path) -> None:
    changed(base, f"INSERT INTO people VALUES (CAST(x'{SECRET.encode().hex()}ff' AS TEXT), '')")
    with pytest.raises(ConfigError, match="UTF-8") as refused:
        sql.write_rows(f"sqlite:///{base}", tmp_path / "rows.csv", table="people", query=None)
    assert SECRET not in str(refused.value)
    said = f'invalid input syntax for type integer: "{SECRET}"\nLINE 1: ...'
    assert sql.first_line(Exception(said)) == "invalid input syntax for type integer"
