"""The page's server as a process: who can reach its port without the token cannot close it."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from heterofed.watch.beside import command_of
from heterofed.watch.serve import MAX_CONNECTIONS

pytestmark = pytest.mark.slow


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "uvicorn.py").write_text("raise SystemExit('taken from the working directory')")
    with subprocess.Popen(
        command_of(tmp_path, "loans"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        yield line[line.index("http") :].split()[0]
        server.terminate()


def test_connections_that_ask_for_nothing_keep_nobody_out(address: str) -> None:
    port = int(address.split(":")[2].split("/", maxsplit=1)[0])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(MAX_CONNECTIONS + 40)]
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
    finally:
        for each in idle:
            each.close()


def test_a_task_without_a_run_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "heterofed", "watch", "laons", "--results", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = server.stderr.readline()
        server.terminate()
    assert said.startswith("no run of 'laons' in ")
