"""A real PostgreSQL, started by the test on a socket in a folder of its own."""

from __future__ import annotations

import csv
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import psi
from heterofed.cli.psi import run_psi
from heterofed.errors import ConfigError
from heterofed.tabular.inspect import inspect
from heterofed.tabular.sources import open_source
from tests.identity.offices import Command


def program(name: str) -> str | None:
    """Where Debian, or the path, has a program of PostgreSQL."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(versions[0]) if versions else shutil.which(name)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Path]:
    """The folder of the server's socket."""
    initdb, server, shell = (program(name) for name in ("initdb", "pg_ctl", "psql"))
    if not (initdb and server and shell):
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # It refuses to run as root; its own user must reach the folder, which pytest's is closed to.
    root = os.geteuid() == 0
    user = pwd.getpwnam("postgres") if root else None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)

    def call(*command: str) -> None:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            cwd=folder,
            user="postgres" if root else None,
        )

    data = folder / "data"
    options = f"-k {folder} -c listen_addresses= -c fsync=off"
    try:
        call(initdb, "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync")
        call(server, "-D", str(data), "-o", options, "-w", "-l", str(folder / "log"), "start")
        script = """
            CREATE TABLE clients (id text, amount numeric(10, 2), day date, yes boolean);
            INSERT INTO clients VALUES ('001', 1.50, '2024-02-29', true),
                ('002', NULL, NULL, false), ('003', -2000, '2024-03-01', NULL);
            CREATE SCHEMA other; CREATE TABLE other.many AS
                SELECT n AS id, n / 2.0 AS half FROM generate_series(1, 30000) AS n;
            CREATE TABLE people AS SELECT 'p' || n AS id, 'town, ' || n AS town
                FROM generate_series(1, 30) AS n;
            CREATE TABLE folk AS SELECT n AS number, md5(n::text)::uuid AS id
                FROM generate_series(1, 40) AS n;
        """
        call(shell, "-h", str(folder), "-U", "postgres", "-q", "-c", script)
        yield folder
    finally:
        subprocess.run(
            [server, "-D", str(data), "-m", "immediate", "stop"],
            check=False,
            capture_output=True,
            user="postgres" if root else None,
        )
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_table_of_postgresql(postgres: Path) -> None:
    url = f"postgresql://postgres@/postgres?host={postgres}"
    source = open_source(url, table="clients")
    report = inspect(source, ids="id")
    assert [each.kind for each in report.columns] == ["id", "numeric", "date", "boolean"]
    values = source.typed(report.features).frame()
    assert values["amount"].tolist()[::2] == [1.5, -2000.0]
    assert values["day"].dt.day.tolist()[::2] == [29.0, 1.0]
    assert values["yes"].tolist()[:2] == [1.0, 0.0]
    many = open_source(url, table="other.many")
    assert many.rows == 30_000
    assert many.frame(["half"])["half"].astype(float).sum() == sum(range(1, 30_001)) / 2
    some = open_source(url, query="SELECT id, amount::text FROM clients WHERE day > '2024-02-29'")
    assert some.frame()["id"].tolist() == ["003"]
    with pytest.raises(ConfigError, match=r"no table 'client'; its tables: 'clients'"):
        open_source(url, table="client")
    with pytest.raises(ConfigError, match="DELETE"):
        open_source(url, query="DELETE FROM clients RETURNING id")
    assert open_source(url, table="clients").rows == 3


def intersect(role: Any, url: str, out: Path, **source: Any) -> dict[str, Any]:
    return run_psi(
        task="t", role=role, party=None, parties=1, ids=url, id_column="id", protocol="ecdh",
        max_peer_ids=100, out=out, join_timeout=30, fresh=False, **source,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_both_parties_intersect_ids_of_postgresql(postgres: Path, tmp_path: Path) -> None:
    """A table against a query whose ids are text, numbers that are made text, and UUIDs."""
    url = f"postgresql://postgres@/postgres?host={postgres}"
    for mine, theirs, expected in (
        (
            {"table": "people"},
            {"query": "SELECT 'p' || number AS id, id AS u FROM folk WHERE number > 25 ORDER BY 1"},
            [[f"p{number}", f"town, {number}"] for number in range(26, 31)],
        ),
        (
            {"query": "SELECT id FROM folk WHERE number < 4 ORDER BY number"},
            {"table": "folk"},
            None,
        ),
    ):
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(intersect, "collaborator", url, tmp_path / "there", **theirs)
            here = intersect("initiator", url, tmp_path / "here", **mine)
            assert here["matched"] == other.result()["matched"] == (5 if expected else 3)
        with (tmp_path / "here").open(newline="") as file:
            names, *rows = csv.reader(file)
        if expected:
            assert (names, rows) == (["id", "town"], expected)
        else:
            assert names == ["id"]
            assert [each == str(UUID(each)) for (each,) in rows] == [True] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_a_stored_set_of_postgresql(postgres: Path, tmp_path: Path, command: Command) -> None:
    """An update moves a row of a table without an order, so the set is not that of the table."""
    url = f"postgresql://postgres@/postgres?host={postgres}"
    folder, rows = str(tmp_path / "set"), tmp_path / "rows.csv"
    ids = ("--ids", url, "--column", "id")
    ordered = ("--query", "SELECT * FROM people ORDER BY id")
    serve = ("psi-set", "serve", folder, "--task", "t", "--out", str(rows), "--join-timeout", "0.1")
    for source, code, says in ((("--table", "people"), 2, "in another order"), (ordered, 1, "")):
        assert command("psi-set", "create", folder, "--name", "n", *ids, *source) == 0
        assert psi.StoredSet(folder).count == 30
        update = "UPDATE people SET town = 'elsewhere' WHERE id = 'p3'"
        subprocess.run(
            [program("psql") or "", "-h", postgres, "-U", "postgres", "-qc", update], check=True
        )
        assert command(*serve, *ids, *source) == code
        assert says in " ".join(command.err.split())
    assert not rows.exists()
