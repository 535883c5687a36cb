"""Whoever waits in vain hears why: no task file, another key, no such name, another server."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heterofed import errors as e
from heterofed.events import StillWaiting
from heterofed.identity.keys import fingerprint, load_key, new_key, rotate_key
from heterofed.identity.task_file import load_task, task_path
from heterofed.messaging.notices import Notices
from heterofed.protocol.states import Role
from heterofed.rendezvous import backend as places
from heterofed.rendezvous.backend import LocalPlace, place_of
from heterofed.rendezvous.refused_keys import LINES_A_MINUTE, MAX_KEPT, Strangers
from heterofed.transport import zeromq
from heterofed.transport.names import PATIENCE_SECONDS, HostName
from heterofed.transport.zeromq.answers import Answer, who_answers
from heterofed.transport.zeromq.zap import ClientKeys, ServerKeys, new_key_pair
from tests.adversarial.peers import TASK, Victim
from tests.e2e.tiny import TinyCollaborator, TinyHost
from tests.identity.offices import Command, open_offices


@pytest.fixture
def office(home: Path) -> Path:
    """alice and bob, over TCP with keys; gives HETEROFED_HOME."""
    open_offices(home, plan=["max_rounds=2"])
    return home


# -- how often -------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.5, 1, 7, 10])
def test_waits_are_told_of_ever_more_rarely(step: float) -> None:
    notices = Notices()
    told = [n * step for n in range(int(2000 / step)) if notices.due(n * step)]
    expected = [10, 20, 40, 80, 160, 320, 620, 920, 1220, 1520, 1820]
    assert len(told) == len(expected)
    assert all(0 <= at - due < step for at, due in zip(told, expected, strict=True))
    assert not notices.due(5)  # another wait
    assert notices.due(10)


@pytest.mark.slow
@pytest.mark.parametrize("role", [Role.HOST, Role.COLLABORATOR])
def test_waiting_lines_name_what_to_compare(
    role: Role,
    office: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("heterofed.rendezvous.join.NOTICE_SECONDS", 0.2)
    monkeypatch.setattr("heterofed.messaging.party.Notices", functools.partial(Notices, 0.2))
    events: list[Any] = []
    kind: Any = TinyHost if role is Role.HOST else TinyCollaborator
    scheduler = kind(tmp_path, join_timeout=2, callbacks=[events.append])
    with caplog.at_level(logging.INFO, "heterofed"):
        assert isinstance(Victim(scheduler).outcome(), e.JoinTimeoutError)
    waits = [each for each in events if isinstance(each, StillWaiting)]
    assert 1 <= len(waits) <= 4
    address = load_task(task_path(TASK, office)).address
    for said in (*(each.compare for each in waits), caplog.text):
        assert f"task id ({TASK!r}), the task file and the address ({address})" in said
        assert f"heterofed task check {TASK}" in said


# -- keys, and no task file ------------------------------------------------------------------------


def test_keys_without_a_task_file_are_told_of_at_once(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_offices(home, task="credit-2024")
    for party in ("bob", "alice"):
        caplog.clear()
        role = Role.HOST if party == "alice" else Role.COLLABORATOR
        assert isinstance(place_of("credit-2042", party, role, "train"), LocalPlace)
        assert "there is no file of task 'credit-2042'" in caplog.text
        assert "did you mean 'credit-2024'?" in caplog.text
        assert "heterofed task accept" in caplog.text
    new_key("carol", home)
    caplog.clear()
    place_of("other", "carol", Role.COLLABORATOR, "train")
    assert "carol has a key on this machine" in caplog.text
    caplog.clear()
    place_of("other", "dave", Role.COLLABORATOR, "train")  # whoever has no keys meets locally
    assert not caplog.text


# -- keys that are not listed ----------------------------------------------------------------------


def knock(address: str, keys: ClientKeys) -> None:
    endpoint = zeromq.connect(address, keys=keys)
    while not endpoint.poll(0.1):
        pass
    endpoint.close()


@pytest.mark.slow
def test_a_host_tells_of_a_key_that_it_does_not_know(
    office: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = load_task(task_path(TASK, office)).address
    rotated, alice = rotate_key("bob", office), load_key("alice", office)
    with place_of(TASK, "alice", Role.HOST, "train").listen() as endpoint:
        for _ in range(3):
            knock(address, ClientKeys(rotated.public, rotated.secret, alice.public))
        endpoint.close()
    assert caplog.text.count(rotated.fingerprint) == 1
    assert "heterofed keys show" in caplog.text
    assert rotated.public not in caplog.text


@pytest.mark.slow
def test_a_check_at_the_host_reports_unknown_keys(office: Path, command: Command) -> None:
    address = load_task(task_path(TASK, office)).address
    alice, stranger = load_key("alice", office), new_key_pair()
    ended = threading.Event()

    def come() -> None:
        while not ended.wait(0.1):
            with contextlib.suppress(e.ConfigError):
                knock(address, ClientKeys(*stranger, alice.public))

    thread = threading.Thread(target=come)
    thread.start()
    code = command("task", "check", TASK, "--party", "alice", "--wait", "3")
    ended.set()
    thread.join()
    assert code == 1
    assert command.out.count(f"does not list: {fingerprint(stranger[0])}") == 1
    assert "no check came from bob" in command.err


def test_many_unknown_keys_fill_neither_log_nor_memory(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    strangers = Strangers("tiny", lambda: now[0])
    for number in range(20_000):
        now[0] += 0.1  # 33 minutes
        strangers.note(f"key {number}", "192.0.2.1")
    assert len(caplog.records) <= MAX_KEPT == len(strangers.fingerprints)
    caplog.clear()
    for _ in range(10_000):
        strangers.note("key 0", "192.0.2.1")
        now[0] += 0.01
    assert len(caplog.records) <= 1
    assert LINES_A_MINUTE < 10


# -- names, and other servers ----------------------------------------------------------------------


def fail_to_resolve(monkeypatch: pytest.MonkeyPatch, code: int, why: str) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, *more: Any, **others: Any) -> Any:
        if str(host).endswith(".invalid"):
            raise socket.gaierror(code, why)
        return real(host, *more, **others)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_name_that_does_not_exist_is_told_of_at_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    open_offices(home, address="tcp://no-such-bank.invalid:7300")
    fail_to_resolve(monkeypatch, socket.EAI_NONAME, "Name or service not known")
    outcome = Victim(TinyCollaborator(tmp_path, join_timeout=0)).outcome(10)
    assert isinstance(outcome, e.ConfigError)
    assert "'no-such-bank.invalid' cannot be resolved" in str(outcome)
    assert command("task", "check", TASK, "--party", "bob") == 2
    assert "'no-such-bank.invalid' cannot be resolved" in command.err


def test_a_name_server_may_be_away_for_a_moment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_to_resolve(monkeypatch, socket.EAI_AGAIN, "Temporary failure in name resolution")
    now = [0.0]
    name = HostName("tcp://bank.invalid:7300", lambda: now[0])
    for now[0] in (0.0, 1.0, PATIENCE_SECONDS - 1):
        name.check()
    assert caplog.text.count("cannot be resolved") == 1
    now[0] = PATIENCE_SECONDS
    with pytest.raises(e.ConfigError, match=re.escape("Temporary failure in name resolution")):
        name.check()


@pytest.mark.parametrize("host", ["x" * 64, "a..b", ".".join(["x" * 60] * 9)])
def test_names_that_are_none(host: str) -> None:
    with pytest.raises(e.ConfigError, match="cannot be resolved"):
        HostName(f"tcp://{host}:7300").check()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1"])
def test_names_that_are_good(address: str) -> None:
    HostName(address).check()


def says_banner(link: socket.socket) -> None:
    link.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


def says_http(link: socket.socket) -> None:
    link.recv(1 << 12)
    link.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def hangs_up(link: socket.socket) -> None:
    link.close()


FOREIGN: list[Callable[[socket.socket], None]] = [says_banner, says_http, hangs_up]


@contextlib.contextmanager
def foreign(port: int, behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server of another kind."""
    with socket.create_server(("127.0.0.1", port)) as server:
        links = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    links.append(server.accept()[0])
                    with contextlib.suppress(OSError):
                        behave(links[-1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for each in links:
            each.close()


@pytest.mark.slow
@pytest.mark.parametrize("behave", FOREIGN)
def test_another_server_at_the_address_is_named_so(
    behave: Callable[[socket.socket], None], office: Path, command: Command
) -> None:
    port = int(load_task(task_path(TASK, office)).address.rpartition(":")[2])
    with foreign(port, behave):
        assert command("task", "check", TASK, "--party", "bob", "--wait", "20") == 1
    assert "is no heterofed Host but" in command.err
    assert "compare the address and port" in command.err
    assert "does not know this party's key" not in command.err


def test_who_answers() -> None:
    mine, theirs = new_key_pair(), new_key_pair()
    for keys, expected in (
        (None, Answer.NULL),
        (ServerKeys(*mine, {"bob": theirs[0]}), Answer.CURVE),
    ):
        with contextlib.closing(zeromq.listen("tcp://127.0.0.1:*", keys=keys)) as endpoint:
            assert who_answers(endpoint.address) is expected
        assert who_answers(endpoint.address) is Answer.NOBODY
    with foreign(0, lambda _link: None) as address:
        assert who_answers(address, 0.2) is Answer.NOTHING
    with foreign(0, says_banner) as address:
        assert who_answers(address, 0.2) is Answer.OTHER


@pytest.mark.parametrize("keyed", [True, False])
def test_parties_of_which_only_some_have_keys(keyed: bool, home: Path) -> None:
    open_offices(home, keyless=not keyed)
    task = load_task(task_path(TASK, home))
    place = places.TaskPlace(task, "bob", home, insecure=True)
    keys = None if keyed else ServerKeys(*new_key_pair(), {"bob": new_key_pair()[0]})
    with contextlib.closing(zeromq.listen(task.address, keys=keys)):
        told = place.diagnose()
    assert ("is a listener without keys" if keyed else "is a listener with keys") in told
    assert place.diagnose() == ""  # nobody is there
