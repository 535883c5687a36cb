"""The `heterofed` command, as processes: output, exit codes, and files left as they were."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from array import array
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofed.cli.psi import run_psi
from heterofed.errors import ConfigError, IdError
from heterofed.intersection.matching_rows import MatchingRows
from psi import OwnIds
from psi import column as column_of
from tests.e2e.processes import ROOT, Parties
from tests.psi.helpers import no_libsodium

pytestmark = pytest.mark.slow

HETEROFED = ["-m", "heterofed"]


def heterofed(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *HETEROFED, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        **options,
    )


def psi(role: str, ids: Path, out: Path, *more: str, task: str = "t") -> list[str]:
    given = ["--task", task, "--role", role, "--ids", str(ids), "--out", str(out), *more]
    return [*HETEROFED, "psi", *given, "--join-timeout", "60", "--json"]


def test_version_and_help() -> None:
    assert heterofed("--version").stdout.startswith("heterofed, version ")
    assert "psi" in heterofed("--help").stdout


@pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
def test_psi_copies_own_rows_in_own_order(protocol: str, parties: Parties, tmp_path: Path) -> None:
    chance = random.Random(3)
    people = [f"person {number:04}" for number in range(400)]
    mine, theirs = chance.sample(people, 300), chance.sample(people, 250)
    table = pd.DataFrame({"age": range(300), "who": mine, "note": ['say "hi", you'] * 300})
    table.to_csv(tmp_path / "mine.csv", index=False)
    (tmp_path / "theirs.txt").write_text("".join(f"{each}\n" for each in theirs))

    asker = parties.start(
        *psi(
            "initiator",
            tmp_path / "mine.csv",
            tmp_path / "new" / "mine.out",
            "--column",
            "who",
            "--protocol",
            protocol,
        )
    )
    answerer = parties.start(*psi("collaborator", tmp_path / "theirs.txt", tmp_path / "theirs.out"))
    assert (asker.wait(), answerer.wait()) == (0, 0), asker.output + answerer.output

    common = set(mine) & set(theirs)
    expected = table[table["who"].isin(common)].reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "mine.out"), expected)
    ordered = [each for each in theirs if each in common]
    assert (tmp_path / "theirs.out").read_text().splitlines() == ordered
    for party in (asker, answerer):
        outcome = json.loads(party.output.splitlines()[-1])
        assert outcome["matched"] == len(common)
        assert outcome["protocol"] == protocol
        assert outcome["backend"].startswith(("openssl", "gmpy2", "libsodium"))
    outcome = json.loads(asker.output.splitlines()[-1])
    assert outcome["ids"] == 300
    assert {"seconds", "ids_per_second", "bytes_sent", "bytes_received"} <= set(outcome)
    assert not [*tmp_path.glob("**/.*")]  # nothing else was left, nor named:
    assert "intersection.csv" not in asker.output + answerer.output


@pytest.mark.parametrize(
    ("content", "more", "says"),
    [
        ("who\na\nb\na\n", ["--column", "who"], "1 id is repeated"),
        ("who\na\n", ["--column", "name"], "no column 'name'"),
        ("id\na\n", [], "looks like a table"),
        ("", ["--column", "id"], "ids.csv is empty"),
        ("id\n\udce9\n", ["--column", "id"], "ids.csv is not UTF-8 text"),
    ],
)
def test_psi_with_bad_files(
    content: str, more: list[str], says: str, parties: Parties, tmp_path: Path
) -> None:
    ids, out = tmp_path / "ids.csv", tmp_path / "out"
    ids.write_text(content, errors="surrogateescape")
    out.write_text("as it was")
    done = parties.start(*psi("initiator", ids, out, *more))
    assert done.wait() == 2
    assert says in done.output
    assert "Traceback" not in done.output
    assert out.read_text() == "as it was"


def run_psi_with(ids: Path, out: Path, **settings: Any) -> dict[str, Any]:
    return run_psi(
        **{
            "task": "t",
            "role": "initiator",
            "party": None,
            "parties": 1,
            "ids": ids,
            "id_column": None,
            "protocol": "ecdh",
            "max_peer_ids": 10_000_000,
            "out": out,
            "join_timeout": 1,
            "fresh": False,
            **settings,
        }
    )


def test_psi_does_not_overwrite_the_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ids, link = Path("ids.txt"), Path("link.txt")
    ids.write_text("a\n")
    link.symlink_to(ids)
    for out in (ids, tmp_path / "x" / ".." / "ids.txt", link):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match="is the file with the ids"):
            run_psi_with(ids, out)
    assert ids.read_text() == "a\n"


def test_psi_of_what_is_no_parquet_file(tmp_path: Path) -> None:
    ids = tmp_path / "ids.parquet"
    ids.write_bytes(b"PAR1 not parquet")
    with pytest.raises(ConfigError, match="is not a Parquet file"):
        run_psi_with(ids, tmp_path / "out", id_column="id")


@pytest.mark.usefixtures("home")
def test_psi_without_a_library_for_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_libsodium(monkeypatch)
    (tmp_path / "ids").write_text("a\n")
    with pytest.raises(ConfigError, match="install it, or the package rbcl"):
        run_psi_with(tmp_path / "ids", tmp_path / "out")


@pytest.mark.usefixtures("home")
def test_psi_of_ids_as_long_as_a_megabyte(tmp_path: Path) -> None:
    ids = ["é" * 500_000, "short"]
    table, text = tmp_path / "ids.csv", tmp_path / "ids.txt"
    table.write_text("n,id\n" + "".join(f"{n},{each}\n" for n, each in enumerate(ids)))
    text.write_text(ids[0] + "\nother\n")
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(
            run_psi_with, text, tmp_path / "there", role="collaborator", join_timeout=60
        )
        here = run_psi_with(table, tmp_path / "here", id_column="id", join_timeout=60)
        assert here["matched"] == there.result()["matched"] == 1
    assert (tmp_path / "here").read_text() == f"n,id\n0,{ids[0]}\n"


@pytest.mark.parametrize("kind", ["text", "csv", "tsv", "parquet"])
def test_rows_of_any_kind_of_file_are_copied(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": range(7), "id": list("abcdefg")})
    source, out = tmp_path / f"ids.{kind}", tmp_path / "out"
    column, separator = None if kind == "text" else "id", "\t" if kind == "tsv" else ","
    if kind == "text":
        source.write_text("a\nb\nc\nd\ne\nf\ng\n")
    elif kind in ("csv", "tsv"):
        frame["n"] = ["1,2", "3\t4", *range(5)]
        frame.to_csv(source, index=False, sep=separator)
    else:
        frame.to_parquet(source, row_group_size=3)
    ids = OwnIds(frame["id"], bucket_ids=2)
    MatchingRows(source, column, out).copy(ids, array("Q", [1, 5, 6]))
    if kind == "text":
        assert out.read_text() == "b\nf\ng\n"
    else:
        expected = frame.iloc[[1, 5, 6]].reset_index(drop=True)
        if kind == "parquet":
            found = pd.read_parquet(out)
        else:
            found = pd.read_csv(out, sep=separator)
            expected["n"] = expected["n"].astype(str)
        pd.testing.assert_frame_equal(found, expected)

    for others in (list("abxdefg"), list("abcdef"), list("abcdefgh")):  # the file has changed
        with pytest.raises(IdError, match="was changed while the task ran"):
            MatchingRows(source, column, out).copy(OwnIds(others), array("Q", [1]))
    assert {each.name for each in tmp_path.iterdir()} == {source.name, "out"}


def folder_of(path: Path) -> pd.DataFrame:
    """Write a folder of Parquet files as clusters do, and return its rows."""
    (path / "day=2").mkdir(parents=True)
    frame = pd.DataFrame({"n": range(7), "id": list("abcdefg")})
    for name, rows in (("part.0", frame[:3]), ("part.1", frame[3:3]), ("day=2/part.2", frame[3:])):
        rows.to_parquet(path / f"{name}.parquet", row_group_size=2)
    (path / "_metadata.parquet").write_bytes(b"of the writer")
    (path / "_SUCCESS").write_bytes(b"")
    return pd.concat([frame[3:], frame[:3]])  # in the order of the paths


def test_rows_of_a_folder_are_copied_file_by_file(tmp_path: Path) -> None:
    source, out = tmp_path / "ids", tmp_path / "out"
    frame = folder_of(source)
    own = list(column_of(source, "id"))
    assert own == frame["id"].tolist()
    MatchingRows(source, "id", out).copy(OwnIds(own, bucket_ids=2), array("Q", [1, 5, 6]))
    assert pd.read_parquet(out / "day=2/part.2.parquet")["id"].tolist() == ["e"]
    assert pd.read_parquet(out / "part.0.parquet")["n"].tolist() == [1, 2]
    assert pd.read_parquet(out / "part.1.parquet").empty
    for others in (list("defxabc"), list("defgab"), list("defgabch")):  # the files have changed
        with pytest.raises(IdError, match="was changed while the task ran"):
            MatchingRows(source, "id", tmp_path / "new").copy(OwnIds(others), array("Q", [1]))
    (source / "part.0.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(IdError, match="was changed while the task ran"):
        MatchingRows(source, "id", tmp_path / "new").copy(OwnIds(own), array("Q", [1]))
    shutil.rmtree(source)
    source.mkdir()
    with pytest.raises(IdError, match="was changed while the task ran"):
        MatchingRows(source, "id", tmp_path / "new").copy(OwnIds(own), array("Q", [1]))
    assert {each.name for each in tmp_path.iterdir()} == {"ids", "out"}


def test_folders_of_ids_that_cannot_be_used(tmp_path: Path) -> None:
    source, full, empty = tmp_path / "ids", tmp_path / "full", tmp_path / "empty"
    folder_of(source)
    full.mkdir()
    empty.mkdir()
    (full / "x").write_text("as it was")
    for out, says in (
        (full, "is there already, and a folder of ids gives a folder; give a new one"),
        (full / "x", "is there already"),
        (source / "out", "is in the folder with the ids; give another folder"),
        (source, "is in the folder with the ids"),
    ):
        with pytest.raises(ConfigError, match=says):
            run_psi_with(source, out, id_column="id")
    for ids, name, says in (
        (source, None, "name the column of the ids with --column"),
        (empty, "id", "a folder without a .parquet file"),
        (source, "nome", "part.2.parquet has no column 'nome'"),
    ):
        with pytest.raises(ConfigError, match=says):
            run_psi_with(ids, tmp_path / "new", id_column=name)
    pd.DataFrame({"id": ["a"]}).to_parquet(source / "part.3.parquet")  # it is in part.0 too
    with pytest.raises(ConfigError, match=r"1 id is repeated; positions \(from 0\): 7"):
        run_psi_with(source, tmp_path / "new", id_column="id")
    assert (full / "x").read_text() == "as it was"
    assert not (tmp_path / "new").exists()


def test_psi_alone_gives_up(parties: Parties, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("a\n")
    arguments = psi("collaborator", tmp_path / "ids", tmp_path / "out")
    done = parties.start(*arguments[:-2], "1", "--json")
    assert done.wait() == 1
    assert "error: collaborator waited" in done.output
    assert not (tmp_path / "out").exists()


def test_usage_errors() -> None:
    for arguments in (["psi"], ["nonsense"], ["demo", "--rounds", "0"]):
        done = heterofed(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr


def test_demo_from_end_to_end(parties: Parties, mnist: Path, tmp_path: Path) -> None:
    demo = parties.start(
        *HETEROFED,
        "demo",
        *("--rounds", "1", "--limit", "500", "100", "--json"),
        *("--data", str(mnist), "--results", str(tmp_path)),
    )
    assert demo.wait() == 0, demo.output
    outcome = json.loads(demo.output.splitlines()[-1])
    assert (outcome["rounds"], outcome["ids"]) == (1, 600)
    assert 0 <= outcome["accuracy"] <= 1
    for key in ("psi", "train", "total"):
        assert outcome[f"{key}_seconds"] > 0
    assert outcome["bytes_sent"] > 0
    assert outcome["bytes_received"] > 0
    table = pd.read_csv(outcome["metrics_csv"])
    assert table["accuracy"].iloc[-1] == outcome["accuracy"]
    assert "[ROUND 1/1]" in demo.output


@pytest.mark.long
def test_demo_with_baselines(parties: Parties, mnist: Path, tmp_path: Path) -> None:
    demo = parties.start(
        *HETEROFED,
        "demo",
        *("--rounds", "1", "--limit", "500", "100", "--json", "--baseline", "local,pooled"),
        *("--data", str(mnist), "--results", str(tmp_path)),
    )
    assert demo.wait() == 0, demo.output
    outcome = json.loads(demo.output.splitlines()[-1])
    assert set(outcome["baselines"]) == {"local", "pooled"}
    table = pd.read_csv(outcome["modes_csv"])
    assert list(table["mode"]) == ["joint", "local", "pooled"]
    assert table["accuracy"][0] == outcome["accuracy"]
    assert Path(outcome["plot"]).read_bytes().startswith(b"\x89PNG")


def test_demo_with_a_baseline_that_there_is_not(parties: Parties, tmp_path: Path) -> None:
    demo = parties.start(*HETEROFED, "demo", "--baseline", "alone", "--results", str(tmp_path))
    assert demo.wait() == 2
    assert "give some of local, pooled" in demo.output


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "code"),
    [("interrupt", 130), pytest.param("terminate", 128 + signal.SIGTERM, marks=pytest.mark.long)],
)
def test_demo_leaves_no_process_behind(
    how: str, code: int, parties: Parties, mnist: Path, tmp_path: Path
) -> None:
    demo = parties.start(
        *HETEROFED, "demo", "--data", str(mnist), "--results", str(tmp_path), "--rounds", "50"
    )
    demo.wait_for("is here")
    getattr(demo, how)()
    assert demo.wait(30) == code, demo.output
    listed = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in listed.stdout


def test_demo_with_an_unwritable_folder(parties: Parties, tmp_path: Path) -> None:
    demo = parties.start(*HETEROFED, "demo", "--data", str(tmp_path), "--results", "/proc/none")
    assert demo.wait() == 2
    assert "Traceback" not in demo.output
