"""The owner of a stored set gets its matching rows from the source that it names, or an error."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from array import array
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import psi
from heterofed import errors as e
from heterofed.cli.own_ids import IdSource
from heterofed.cli.own_matches import MOST_BYTES, Places, Rows, own_matches
from heterofed.cli.psi import run_psi
from heterofed.cli.psi_set import serve
from heterofed.hetero_nn.psi import (
    RSAPSICollaboratorScheduler,
    RSAPSIInitiatorScheduler,
    answer_stored,
    ask_stored,
)
from heterofed.intersection.stored import set_domain
from tests.e2e.tiny import run
from tests.identity.offices import Command

pytestmark = pytest.mark.usefixtures("home")

PEOPLE = pd.DataFrame({"n": range(40), "id": [f"person {number}" for number in range(40)]})
DOMAIN = set_domain("registry")
NO_BASE: dict[str, Any] = {"table": None, "query": None}


def write(kind: str, folder: Path, rows: pd.DataFrame = PEOPLE) -> tuple[Path | str, list[str]]:
    """Write a source; gives what names it, and the other options."""
    path = folder / f"people.{kind}"
    if kind == "csv":
        rows.to_csv(path, index=False)
    elif kind == "folder":
        path.mkdir(exist_ok=True)
        rows[:25].to_parquet(path / "part.0.parquet")
        rows[25:].to_parquet(path / "part.1.parquet")
    else:
        with sqlite3.connect(path) as base:
            rows.to_sql("people", base, index=False)
        base.close()
        return f"sqlite:///{path}", ["--column", "id", "--table", "people"]
    return path, ["--column", "id"]


def create(command: Command, folder: Path, source: Path | str, more: list[str]) -> psi.StoredSet:
    line = ("psi-set", "create", str(folder), "--name", "registry", "--ids", str(source), *more)
    assert command(*line) == 0, command.err
    stored = psi.StoredSet(folder)
    stored.allow("clinic", 1000)
    return stored


def served(folder: Path, **given: Any) -> None:
    given = {"party": None, "join_timeout": 30.0, "as_json": False, "requests": 1, **given}
    assert serve.callback is not None
    serve.callback(folder=folder, task="t", column="id", **{**NO_BASE, **given})


def ask(folder: Path, task: str = "t", first: int = 30) -> dict[str, Any]:
    few = folder / "few.txt"
    few.write_text("".join(f"person {number}\n" for number in range(first, 50)))
    return run_psi(
        task=task, role="initiator", party="clinic", parties=1, ids=few, id_column=None,
        protocol="ecdh", max_peer_ids=1000, out=folder / "common.txt", join_timeout=30,
        fresh=False, stored="registry",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "folder", "base"])
def test_the_rows_of_the_owner(kind: str, command: Command, tmp_path: Path) -> None:
    source, more = write(kind, tmp_path)
    create(command, tmp_path / "set", source, more)
    out = tmp_path / "rows"
    table = {"table": "people"} if kind == "base" else {}
    with ThreadPoolExecutor(1) as pool:
        owner = pool.submit(served, tmp_path / "set", ids=source, out=out, **table)
        assert ask(tmp_path)["matched"] == 10
        owner.result()
    found = pd.read_parquet(out) if kind == "folder" else pd.read_csv(out)
    pd.testing.assert_frame_equal(found.reset_index(drop=True), PEOPLE[30:].reset_index(drop=True))
    files = [out, *out.iterdir()] if out.is_dir() else [out]
    assert {each.stat().st_mode & 0o077 for each in files} == {0}


@pytest.mark.parametrize("kind", ["csv", "folder"])
def test_each_request_has_its_rows(kind: str, command: Command, tmp_path: Path) -> None:
    source, more = write(kind, tmp_path)
    create(command, tmp_path / "set", source, more)
    out = tmp_path / "found" / "rows.csv"
    out.parent.mkdir()
    with ThreadPoolExecutor(1) as pool:
        owner = pool.submit(served, tmp_path / "set", ids=source, out=out, requests=2)
        assert ask(tmp_path)["matched"] == 10
        assert ask(tmp_path, first=35)["matched"] == 5
        owner.result()
    places = sorted(out.parent.iterdir(), key=lambda each: each.stat().st_mtime_ns)
    assert all(re.fullmatch(r"rows-clinic-\d{8}T\d{6}Z(-2)?\.csv", each.name) for each in places)
    read = pd.read_parquet if kind == "folder" else pd.read_csv
    assert [read(each)["n"].tolist() for each in places] == [[*range(30, 40)], [*range(35, 40)]]


def test_places_of_requests_are_new(tmp_path: Path) -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert Places(tmp_path / "rows.csv").of("a", now) == tmp_path / "rows.csv"
    places, seen = Places(tmp_path / "rows.csv", is_for_all=True), []
    for name in ("a", "a", "b", "名" * 128):
        seen.append(places.of(name, now))
        seen[-1].touch()  # which fails if its name is too long
    assert [each.name for each in seen[:3]] == [
        "rows-a-20260131T120000Z.csv",
        "rows-a-20260131T120000Z-2.csv",
        "rows-b-20260131T120000Z.csv",
    ]
    assert len(seen[3].name.encode()) <= MOST_BYTES + 30


def test_a_source_that_is_not_that_of_the_set(command: Command, tmp_path: Path) -> None:
    """It is refused before anybody can ask; a set that was replaced by the same ids is not."""
    folder, out = tmp_path / "set", tmp_path / "rows.csv"
    source, more = write("csv", tmp_path)
    stored = create(command, folder, source, more)
    out.write_text("as it was")
    others = PEOPLE.copy()
    others.loc[7, "id"] = "somebody"
    line = ("psi-set", "serve", str(folder), "--task", "t", "--out", str(out), "--ids", str(source))
    for rows, says in (
        (PEOPLE[:-1], "there are 39, and the set has 40"),
        (PEOPLE[::-1], "in another order"),
        (others, "some are others"),
    ):
        write("csv", tmp_path, rows)
        assert command(*line, *more) == 2
        told = " ".join(command.err.split())
        assert says in told
        assert "create it again" in told
        assert "person" not in told
    write("csv", tmp_path)
    create(command, folder, source, more)
    with own_matches(stored, out, Path(source), "id", **NO_BASE) as matches:
        assert matches.ids is not None
    state = folder / "set.json"
    written = json.loads(state.read_text())
    del written["ids"]  # of the version before
    state.write_text(json.dumps(written))
    assert stored.count == len(PEOPLE)
    assert command(*line, *more) == 2
    assert "older version" in command.err
    assert out.read_text() == "as it was"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--column", "id"], "--ids"),
        (["--table", "people", "--out", "OUT"], "--ids"),
        (["--ids", "SOURCE", "--column", "id"], "--out"),
        (["--ids", "SOURCE", "--out", "OUT"], "--column"),
        (["--ids", "SOURCE", "--column", "no", "--out", "OUT"], "no column 'no'"),
        (["--ids", "SOURCE", "--column", "id", "--out", "SOURCE"], "the file with the ids"),
        (["--ids", "sqlite:///no", "--column", "id", "--out", "OUT"], "--table or --query"),
        (["--ids", "FOLDER", "--column", "id", "--out", "FOLDER/x"], "in the folder"),
        (["--out", "FOLDER"], "is a folder"),
    ],
)
def test_sources_that_cannot_be_used(
    given: list[str], says: str, command: Command, tmp_path: Path
) -> None:
    psi.StoredSet.create(tmp_path / "set", ["a"], domain=DOMAIN, workers=1)
    write("csv", tmp_path)
    write("folder", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    names = {"SOURCE": "people.csv", "FOLDER": "people.folder", "OUT": "out"}
    for name, file in names.items():
        given = [each.replace(name, str(tmp_path / file)) for each in given]
    assert command("psi-set", "serve", str(tmp_path / "set"), "--task", "t", *given) == 2
    assert says in " ".join(command.err.split())
    assert [each for each in sorted(tmp_path.rglob("*")) if each.name != "home"] == before


def test_a_source_that_changes_between_requests(tmp_path: Path) -> None:
    stored = psi.StoredSet.create(tmp_path / "set", PEOPLE["id"], domain=DOMAIN, workers=1)
    for kind, file in (("csv", "people.csv"), ("folder", "people.folder/part.1.parquet")):
        source = Path(write(kind, tmp_path)[0])
        named = IdSource(path=source, column="id", name="the people", remedy="")
        rows = Rows(stored, named, Places(tmp_path / "out"))
        rows.check()
        later = (tmp_path / file).stat().st_mtime_ns + 10**9
        os.utime(tmp_path / file, ns=(later, later))
        with pytest.raises(e.ConfigError, match="the people was changed since its ids were read"):
            rows.check()
        write(kind, tmp_path, PEOPLE[::-1])
        with pytest.raises(e.IdError, match="was changed"):
            rows.write(array("Q", [3]), "clinic")
        rows.close()
    assert not (tmp_path / "out").exists()


def test_a_set_that_is_replaced_while_its_owner_waits(tmp_path: Path) -> None:
    """The new set answers if it has the same ids; else the request ends, and nothing is counted."""
    own = psi.OwnIds(PEOPLE["id"])
    stored = psi.StoredSet.create(tmp_path / "set", own, domain=DOMAIN, workers=1)
    stored.allow("clinic", 1000)

    class Asker(RSAPSIInitiatorScheduler):
        def launch_task(self, task_id: str, resume: Any = "auto", **how: Any) -> Any:
            ask_stored(self, task_id, "registry")

    class Owner(RSAPSICollaboratorScheduler):
        def launch_task(self, task_id: str, resume: Any = "auto", **how: Any) -> Any:
            return list(answer_stored(self, task_id, stored, own).matched)

    def asked() -> Any:
        here: Any = {"join_timeout": 30, "results_dir": tmp_path}
        return run(
            Asker("clinic", ids=["x", "person 8"], **here), Owner("owner", **here), task="a"
        )[1]

    psi.StoredSet.create(tmp_path / "set", own, domain=DOMAIN, workers=1)
    assert asked() == [8]
    psi.StoredSet.create(tmp_path / "set", PEOPLE["id"][::-1], domain=DOMAIN, workers=1)
    refused = asked()
    assert isinstance(refused, e.PSIFailedError)
    assert "not the ids of the set" in str(refused)
    assert stored.budget("clinic").spent() == 2


def test_an_answerer_of_other_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = psi.OwnIds(["a", "b"])
    stored = psi.StoredSet.create(tmp_path / "set", own, domain=DOMAIN, workers=1)
    stored.allow("clinic", 1000)
    psi.SetAnswerer(stored, peer="clinic", ids=own).close()
    with pytest.raises(psi.ChangedIdsError, match="another order"):
        psi.SetAnswerer(stored, peer="clinic", ids=psi.OwnIds(["b", "a"]))
    require = psi.StoredSet.require

    def replaced(self: psi.StoredSet, ids: psi.OwnIds) -> None:
        psi.StoredSet.create(tmp_path / "set", own, domain=DOMAIN, workers=1)
        require(self, ids)

    monkeypatch.setattr(psi.StoredSet, "require", replaced)
    with pytest.raises(psi.StoreError, match="was just replaced"):
        psi.SetAnswerer(stored, peer="clinic", ids=own)
