"""A real PostgreSQL, started by the test on a socket in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from heterofed.errors import ConfigError
from heterofed.tabular.inspect import inspect
from heterofed.tabular.sources import open_source


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
