"""A second Host of a task is told before any work what the first one does, whatever either does."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from heterofed.cli.app import cli
from heterofed.errors import ConfigError
from heterofed.identity.task_file import load_task
from heterofed.rendezvous.address import check_free
from heterofed.rendezvous.backend import LocalPlace, Place, TaskPlace
from heterofed.rendezvous.local import DOING
from tests.e2e.tiny import TinyHost
from tests.identity.offices import open_offices

COMMANDS = {
    "train": ["table", "train", "TABLE", "--task", "t", "--id", "customer", "--label", "y"],
    "predict": ["table", "predict", "TABLE", "--task", "t"],
    "score": ["table", "score", "TABLE", "--task", "t"],
    "overlap": ["table", "overlap", "TABLE", "--task", "t", "--id", "customer"],
    "serve": ["serve", "t", "TABLE"],
    "serve also": ["serve", "u", "TABLE", "--also", "t=TABLE"],
    "psi": ["psi", "--role", "initiator", "--task", "t", "--ids", "IDS", "--out", "out.csv"],
}
"""Every command that listens as a Host, beside `doctor` and `task check`, which do no work before
they listen."""


@pytest.fixture(params=["file", "local"])
def place(request: pytest.FixtureRequest, home: Path) -> Place:
    """Where the Host of the task t listens."""
    if request.param == "local":
        return LocalPlace("t", home)
    return TaskPlace(load_task(open_offices(home, ["bob"], task="t")), "alice", home)


@pytest.fixture
def listens(place: Place) -> Iterator[None]:
    place.purpose = "serve"
    with place.listen() as endpoint:
        yield
        endpoint.close()


@pytest.mark.usefixtures("listens")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_before_they_read_the_table(command: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "not-there.csv")
    (ids := tmp_path / "ids.txt").write_text("")  # an empty file is refused, too
    words = [each.replace("TABLE", missing).replace("IDS", str(ids)) for each in COMMANDS[command]]
    done: Any = CliRunner().invoke(cli, words)
    assert isinstance(done.exception, ConfigError), done.output
    assert re.search("process [0-9]+ .* serves or scores rows of task 't'", str(done.exception))
    assert "stop it" in str(done.exception)


@pytest.mark.usefixtures("listens")
def test_a_scheduler_refuses_before_its_hooks_run(tmp_path: Path) -> None:
    class Careful(TinyHost):
        def validate_context(self) -> None:
            raise AssertionError

    with pytest.raises(ConfigError, match="serves or scores"):
        Careful(tmp_path).launch_task("t")


def test_those_that_take_turns_are_not_refused_for_each_other(place: Place) -> None:
    place.purpose = "predict"
    with place.listen() as endpoint:
        check_free("t", turns="predict")
        with pytest.raises(ConfigError, match="predicts"):
            check_free("t")
        endpoint.close()
    place.purpose = "serve"
    with place.listen() as endpoint:
        with pytest.raises(ConfigError, match="serves or scores"):
            check_free("t", turns="predict")
        endpoint.close()


@pytest.mark.parametrize("purpose", [*DOING, ""])
def test_each_purpose_is_named(purpose: str, home: Path) -> None:
    place = LocalPlace("t", home)
    place.purpose = purpose
    with place.listen() as endpoint:
        with pytest.raises(ConfigError, match=DOING.get(purpose, "runs the Host")):
            check_free("t")
        endpoint.close()
    check_free("t")
    assert not [each for each in (home / "run").iterdir() if each.suffix == ".json"]


def test_another_program_at_the_address_is_found(home: Path) -> None:
    task = load_task(open_offices(home, ["bob"], task="t"))
    port = int(task.address.rpartition(":")[2])
    check_free("t", "without-a-file")
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigError, match="set `bind`"):
        check_free("t")
    check_free("t")


def test_two_tasks_of_one_process_need_two_addresses(home: Path) -> None:
    address = load_task(open_offices(home, ["bob"], task="t")).address
    open_offices(home, ["bob"], task="u", address=address)
    with pytest.raises(ConfigError, match="'t' and 'u' have the same address"):
        check_free("t", "u")
