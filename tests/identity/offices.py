"""Parties with keys and a task file of their own; all of them in one HETEROFED_HOME."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from heterofed.cli import app
from heterofed.cli.task import accept_task, new_task
from heterofed.identity.keys import key_path, load_key, new_key
from heterofed.identity.signing import make_signing_key


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def public_key(party: str, home: Path) -> str:
    """Of the key that an earlier task made, or of a new one."""
    known = key_path(party, home).exists()
    return (load_key if known else new_key)(party, home).public


def open_offices(
    home: Path,
    collaborators: Sequence[str] = ("bob",),
    *,
    host: str = "alice",
    task: str = "tiny",
    accept: bool = True,
    keyless: bool = False,
    signing: bool = False,
    **settings: Any,
) -> Path:
    """Keys for the Host and the others, a task file and all consents; gives its path."""
    if signing:
        settings["signing"] = [f"{e}={make_signing_key(e, home).public}" for e in collaborators]
    parties = () if keyless else (host, *collaborators)
    keys = {each: public_key(each, home) for each in parties}
    path = new_task(
        task,
        host=host,
        address=settings.pop("address", f"tcp://127.0.0.1:{free_port()}"),
        collaborators=[f"{each}={keys[each]}" if keys else each for each in collaborators],
        keyless=keyless,
        **settings,
    )
    if accept:
        for party in collaborators:
            accept_task(task, party, lambda _terms, _party: True)
    return path


class Command:
    """The `heterofed` command within this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        """Run it; gives its exit code."""
        self._monkeypatch.setattr("sys.argv", ["heterofed", *arguments])
        try:
            app.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        self.out, self.err = self._capsys.readouterr()
        return code
