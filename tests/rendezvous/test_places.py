"""Parties with a task file meet over TCP, prove who they are, and agree before any id leaves."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heterofed import TaskResult
from heterofed import errors as e
from heterofed.cli.task import accept_task, new_task
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.identity.keys import load_key, new_key, rotate_key
from heterofed.identity.task_file import load_task, task_path
from heterofed.rendezvous.backend import TaskPlace
from tests.adversarial.peers import Victim
from tests.e2e.processes import Parties
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run
from tests.identity.offices import Command, free_port, open_offices

pytestmark = pytest.mark.slow


class Untouched(TinyCollaborator):
    """Notes whether its ids were asked for."""

    asked = False

    def load_local_ids(self) -> list[str]:
        self.asked = True
        return super().load_local_ids()


def edit(home: Path, old: str, new: str) -> None:
    path = task_path("tiny", home)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def outcome(scheduler: Any) -> BaseException:
    """What an honest party alone ends with."""
    with pytest.raises(e.HeteroFedError) as caught:
        scheduler.launch_task("tiny")
    return caught.value


def test_three_parties_over_tcp_with_keys(home: Path, tmp_path: Path) -> None:
    open_offices(home, ["bob", "carol"], plan=["max_rounds=2", "psi_protocol=ecdh"])
    others = [Untouched(tmp_path, name) for name in ("bob", "carol")]
    host = TinyHost(tmp_path, collaborators=["bob", "carol"])
    results = run(host, *others)
    assert all(isinstance(each, TaskResult) for each in results), results
    assert all(each._heterofed.run.agreement.plan.psi_protocol == "ecdh" for each in others)  # type: ignore[union-attr]
    assert results[1].ids == 40
    events = [json.loads(line)["event"] for line in (home / "audit.log").read_text().splitlines()]
    assert events == ["accepted"] * 2 + ["started"] * 3


def test_psi_tasks_over_tcp(home: Path, tmp_path: Path) -> None:
    open_offices(home, purpose="psi")
    asks = RSAPSIInitiatorScheduler("alice", ids=IDS[:30], results_dir=tmp_path)
    answers = RSAPSICollaboratorScheduler("bob", ids=IDS[20:], results_dir=tmp_path)
    assert run(asks, answers) == [IDS[20:30]] * 2


def test_nothing_leaves_without_consent(home: Path, tmp_path: Path) -> None:
    open_offices(home, accept=False)
    bob = Untouched(tmp_path)
    error = outcome(bob)
    assert isinstance(error, e.ConfigError)
    assert "heterofed task accept tiny" in str(error)
    assert not bob.asked
    assert list(tmp_path.iterdir()) == []
    assert '"event": "refused"' in (home / "audit.log").read_text()
    accept_task("tiny", "bob", lambda _terms, _party: True)
    edit(home, "max_rounds = 0", "max_rounds = 2")
    assert "has not accepted the terms of task 'tiny' as they are now" in str(outcome(bob))


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        (lambda where: TinyHost(where, max_rounds=3), "max_rounds is 3 in the constructor and 2"),
        (lambda where: TinyHost(where, collaborators=2), "collaborators=2, and the file"),
        (lambda where: TinyHost(where, collaborators=["eve"]), "collaborators=['eve'], and the"),
        (lambda where: TinyHost(where, feature_key="eve"), "has no party 'eve'"),
        (lambda where: TinyHost(where, feature_key="bob"), "bob is a Collaborator: start it"),
        (lambda where: TinyCollaborator(where, "alice"), "alice is the Host: start it with"),
        (
            lambda where: RSAPSICollaboratorScheduler("bob", ids=["1"], results_dir=where),
            "is for 'train' and this scheduler for 'psi'",
        ),
    ],
)
def test_schedulers_that_do_not_fit_the_file(
    scheduler: Any, says: str, home: Path, tmp_path: Path
) -> None:
    open_offices(home, plan=["max_rounds=2"])
    error = outcome(scheduler(tmp_path))
    assert isinstance(error, e.ConfigError)
    assert says in str(error)
    assert list(tmp_path.iterdir()) == []


def test_missing_foreign_and_revoked_keys(home: Path, tmp_path: Path) -> None:
    open_offices(home)
    rotate_key("bob", home)
    assert "is not the one that the file of task 'tiny' lists" in str(
        outcome(TinyCollaborator(tmp_path))
    )
    (home / "keys" / "bob.key").unlink()
    assert "heterofed keys new bob" in str(outcome(TinyCollaborator(tmp_path)))
    edit(home, "revoked = []", f'revoked = ["{load_key("alice", home).public}"]')
    assert "the key of alice is revoked" in str(outcome(TinyHost(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_address_in_use(home: Path, tmp_path: Path) -> None:
    port = free_port()
    open_offices(home, address=f"tcp://127.0.0.1:{port}", plan=["max_rounds=2"])
    with socket.create_server(("127.0.0.1", port)):
        error = outcome(TinyHost(tmp_path))
    assert isinstance(error, e.ConfigError)
    assert "Address already in use" in str(error)
    assert "stop what listens there" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_unreachable(home: Path, tmp_path: Path) -> None:
    open_offices(home)
    error = outcome(TinyCollaborator(tmp_path, join_timeout=0.5))
    assert isinstance(error, e.JoinTimeoutError)
    assert "(at tcp://127.0.0.1:" in str(error)


# -- without keys ---------------------------------------------------------------------------------


def keyless(home: Path, command: Command) -> None:
    port = free_port()
    given = ["--host", "alice", "--address", f"tcp://127.0.0.1:{port}", "--collaborator", "bob"]
    assert command("task", "new", "tiny", *given, "--insecure", "--plan", "max_rounds=2") == 0
    assert command("task", "accept", "tiny", "--party", "bob", "--yes") == 0


def test_tcp_without_keys_is_refused(home: Path, tmp_path: Path, command: Command) -> None:
    keyless(home, command)
    for scheduler in (TinyHost(tmp_path), TinyCollaborator(tmp_path)):
        error = outcome(scheduler)
        assert isinstance(error, e.ConfigError)
        assert "lists no keys" in str(error)
        assert "insecure=True" in str(error)
    half_secure = run(TinyHost(tmp_path, join_timeout=1, insecure=True), TinyCollaborator(tmp_path))
    assert isinstance(half_secure[0], e.JoinTimeoutError)


def test_insecure_is_loud(
    home: Path, tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    keyless(home, command)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "heterofed"):
        results = run(TinyHost(tmp_path, insecure=True), TinyCollaborator(tmp_path, insecure=True))
    assert all(isinstance(each, TaskResult) for each in results), results
    loud = [each.getMessage() for each in caplog.records if "INSECURE" in each.getMessage()]
    assert len(loud) == 2
    assert all("anybody can claim to be any party" in each for each in loud)


def test_insecure_does_not_put_keys_aside(home: Path, tmp_path: Path) -> None:
    open_offices(home, plan=["max_rounds=2"])
    results = run(TinyHost(tmp_path, insecure=True), TinyCollaborator(tmp_path))
    assert all(isinstance(each, TaskResult) for each in results), results


# -- two organisations ---------------------------------------------------------------------------


@pytest.fixture
def theirs(home: Path) -> Iterator[Path]:
    """The HETEROFED_HOME of bob's organisation; it has made its key, and the bank its task file."""
    path = Path(tempfile.mkdtemp(prefix="hf", dir="/tmp"))
    bob = new_key("bob", path).public
    new_key("alice", home)
    address = f"tcp://127.0.0.1:{free_port()}"
    new_task(
        "tiny", host="alice", address=address, collaborators=[f"bob={bob}"], plan=["max_rounds=2"]
    )
    yield path
    shutil.rmtree(path)


def accept_as_bob(parties: Parties, theirs: Path, file: Path) -> None:
    command = ["-m", "heterofed", "task", "accept", str(file), "--yes"]
    done = parties.start(*command, HETEROFED_HOME=str(theirs))
    assert done.wait() == 0, done.output


@pytest.mark.long
def test_both_sides_name_the_fields_that_differ(
    home: Path, theirs: Path, tmp_path: Path, parties: Parties, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other.toml"
    text = task_path("tiny", home).read_text()
    other.write_text(text.replace("shuffle = false", "shuffle = true"))
    accept_as_bob(parties, theirs, other)
    as_bob = ("-m", "tests.e2e.tiny", "collaborator", "tiny", str(tmp_path))
    bob = parties.start(*as_bob, HETEROFED_HOME=str(theirs))
    checks = parties.start(
        *("-m", "heterofed", "task", "check", "tiny", "--wait", "30"), HETEROFED_HOME=str(theirs)
    )
    with caplog.at_level(logging.WARNING, "heterofed"):
        host = Victim(TinyHost(tmp_path, join_timeout=0))
        assert bob.wait() == 1
        assert checks.wait() == 2
    assert "the task file of bob differs: shuffle: false here, true there" in caplog.text
    assert "OtherTermsError" in bob.output
    assert "shuffle: true here, false there" in bob.output
    assert "the files differ: shuffle: true here, false there" in checks.output
    accept_as_bob(parties, theirs, task_path("tiny", home))
    mended = parties.start(*as_bob, HETEROFED_HOME=str(theirs))
    assert isinstance(host.outcome(100), TaskResult), host.outcome()
    assert mended.wait() == 0, mended.output


def test_checks_of_both_sides_meet(
    home: Path, theirs: Path, parties: Parties, command: Command
) -> None:
    accept_as_bob(parties, theirs, task_path("tiny", home))
    check = ("task", "check", "tiny", "--wait", "30")
    bob = parties.start("-m", "heterofed", *check, HETEROFED_HOME=str(theirs))
    assert command(*check) == 0
    assert "bob is connected, and has the same terms" in command.out
    assert bob.wait() == 0, bob.output
    assert "and has the same terms" in bob.output


@pytest.mark.long
def test_a_host_of_another_key_is_told_apart(
    home: Path, theirs: Path, parties: Parties, command: Command
) -> None:
    accept_as_bob(parties, theirs, task_path("tiny", home))
    old = load_key("alice", home).public
    rotate_key("alice", home)
    edit(home, old, load_key("alice", home).public)
    check = ("task", "check", "tiny")
    bob = parties.start("-m", "heterofed", *check, "--wait", "30", HETEROFED_HOME=str(theirs))
    assert command(*check, "--wait", "5") == 1
    assert "no check came from bob" in command.err
    assert bob.wait() == 1
    assert "error: the handshake with the Host failed" in bob.output


def test_a_host_over_tcp_needs_no_short_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 120)
    monkeypatch.setenv("HETEROFED_HOME", str(deep))
    open_offices(deep)
    task = load_task(task_path("tiny", deep))
    with TaskPlace(task, "alice", deep).listen() as endpoint:
        with pytest.raises(e.ConfigError, match="only one at a time"):
            TaskPlace(task, "alice", deep).listen().__enter__()
        endpoint.close()
