"""Who keeps a party waiting, or seems to, and for how long that is borne."""

from __future__ import annotations

import contextlib
import datetime
import logging
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from heterofed import TaskResult, peers, rendezvous
from heterofed import errors as e
from heterofed import task as task_module
from heterofed.peers import Mail, Peer, Timeouts, waiting_limit
from heterofed.plan import Plan
from heterofed.protocol import messages as m
from heterofed.protocol.states import Role
from heterofed.task_command import accept_task
from heterofed.task_file import load_task, task_path
from heterofed.wire import encode
from tests.e2e.tiny import TinyCollaborator, TinyHost
from tests.hostile.peers import TASK, LyingHost, Victim, connected, hello
from tests.hostile.test_floods import Silent


def say_waiting(host: LyingHost) -> None:
    with contextlib.suppress(e.HeteroFedError):
        host.link.say(m.Waiting("carol"))
    host.link.pump()
    time.sleep(0.2)


@pytest.mark.slow
def test_a_host_that_waits_for_ever(
    office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "WAITING_SLACK", 1.0)
    bob, host = Victim(TinyCollaborator(tmp_path)), LyingHost(calculation_timeout=2.0)
    host.welcome().to_train()
    host.link.hear(m.Features)
    outcome = bob.outcome(60, meanwhile=lambda: say_waiting(host))
    host.close()
    assert isinstance(outcome, e.PeerTimeoutError), repr(outcome)
    assert outcome.party == "alice"
    assert "said only that it waits for carol" in str(outcome)


def test_a_host_that_waits_for_ever_in_the_join(
    office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "JOIN_WAITING", 1.0)
    bob, host = Victim(TinyCollaborator(tmp_path, join_timeout=2)), LyingHost()
    monkeypatch.setattr(host, "run", None)
    deadline = time.monotonic() + 20
    while not hasattr(host, "link") and time.monotonic() < deadline:
        for event in host._endpoint.poll(0.1):
            from tests.hostile.peers import Link

            host.link = Link(host._endpoint, event.channel)
    outcome = bob.outcome(60, meanwhile=lambda: say_waiting(host))
    host.close()
    assert isinstance(outcome, e.PeerTimeoutError), repr(outcome)
    assert "in phase join" in str(outcome)


def test_an_honest_host_may_wait_for_others_one_after_the_other() -> None:
    plan = Plan(host="h", collaborators=("a", "b", "c"), calculation_timeout=300)
    assert waiting_limit(plan) > 3 * 300
    forever = Plan(host="h", collaborators=("a",), calculation_timeout=0)
    assert waiting_limit(forever) == 0
    assert Timeouts().waiting == 0


def accepts_and_closes(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()


def port_of(home: Path) -> int:
    return int(load_task(task_path(TASK, home)).address.rpartition(":")[2])


@pytest.mark.slow
def test_something_that_accepts_before_the_host_is_up(
    office: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = socket.create_server(("127.0.0.1", port_of(office)))
    threading.Thread(target=accepts_and_closes, args=(server,), daemon=True).start()
    with caplog.at_level(logging.WARNING, "heterofed"):
        bob = Victim(TinyCollaborator(tmp_path))
        time.sleep(4)
        assert bob._thread.is_alive()
    assert caplog.text.count("trying again: ") == 1
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    host = Victim(TinyHost(tmp_path))
    for each in (host, bob):
        assert isinstance(each.outcome(60), TaskResult), each.outcome()


def test_handshakes_that_go_on_failing(
    office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "HANDSHAKE_SECONDS", 1.0)
    server = socket.create_server(("127.0.0.1", port_of(office)))
    threading.Thread(target=accepts_and_closes, args=(server,), daemon=True).start()
    began = time.monotonic()
    outcome = Victim(TinyCollaborator(tmp_path)).outcome(60)
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    assert isinstance(outcome, e.HandshakeError), repr(outcome)
    assert time.monotonic() - began > 1.0


def test_one_process_is_there_once_with_its_newest_connection(
    offices: Path, tmp_path: Path, open_links: list[Any]
) -> None:
    host = Victim(TinyHost(tmp_path, collaborators=["bob", "carol"]))
    first, again, other = (connected("bob") for _ in range(3))
    open_links.extend((first, again, other))
    greeting = hello("bob")
    first.say(greeting)
    time.sleep(1)
    again.say(greeting)
    deadline = time.monotonic() + 20
    while not first.lost:
        assert time.monotonic() < deadline
        first.pump()
    other.say(hello("bob"))  # of another process
    assert other.hear(m.Abort)[0].code == "duplicate_party"
    carol = connected("carol")
    open_links.append(carol)
    carol.say(hello("carol"))
    again.hear(m.Welcome)
    carol.hear(m.Welcome)
    again.say(m.Abort("internal", "psi", "bob"))
    assert isinstance(host.outcome(), e.TaskFailed)


def test_a_key_that_expires_while_the_host_waits(
    office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_links: list[Any]
) -> None:
    path = task_path(TASK, office)
    head, _, bob = path.read_text().partition("[[collaborators]]\n")
    path.write_text(f"{head}[[collaborators]]\nexpires = 2199-01-01\n{bob}")
    accept_task(TASK, "bob", lambda _terms, _party: True)
    host = Victim(TinyHost(tmp_path))
    link = connected("bob")
    open_links.append(link)
    greeting = hello("bob")

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2199, 1, 2, tzinfo=tz)

    monkeypatch.setattr(task_module, "datetime", Later)
    link.say(greeting)
    outcome = host.outcome(60, meanwhile=link.pump)
    assert isinstance(outcome, e.ConfigError), repr(outcome)
    assert "the key of bob expired on 2199-01-01" in str(outcome)


def test_lines_about_other_terms_are_short_and_few(
    office: Path, tmp_path: Path, open_links: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    host = Victim(TinyHost(tmp_path, join_timeout=0))
    good = hello("bob")
    with caplog.at_level(logging.WARNING, "heterofed"):
        for number in range(5):
            link = connected("bob")
            open_links.append(link)
            lie = good.terms.replace(b'"tiny"', b'"' + b"x " * 20_000 + b"%d" % number + b'"')
            fields = {name: getattr(good, name) for name in m.Hello.__struct_fields__}
            link.say(m.Hello(**{**fields, "terms": lie}))
            link.hear(m.Terms)
    lines = [each.getMessage() for each in caplog.records if "differs" in each.getMessage()]
    assert len(lines) == 1
    assert len(lines[0]) < 3000
    last = Victim(TinyCollaborator(tmp_path))
    for each in (host, last):
        assert isinstance(each.outcome(60), TaskResult), each.outcome()


def test_mail_that_nobody_takes_is_bounded() -> None:
    peer = Peer("a visitor", Silent(), Role.HOST, 0.0)
    greeting = m.Hello((1,), "train", bytes(32), "bob", bytes(16), True)
    held = peer.session.most_waiting - 1000
    peer.put(Mail(m.Bye(), bytearray(held - 512)))
    assert peer.decoder.feed(b"".join(map(bytes, encode(greeting)))) is not None
    peer.put(Mail(m.Bye(), bytearray(0)))
    with pytest.raises(e.RemoteProtocolError, match="more mail than may wait"):
        peer.decoder.feed(b"".join(map(bytes, encode(greeting))))
    peer.pop()
    peer.decoder = Peer("a visitor", Silent(), Role.HOST, 0.0).decoder
    assert peer.decoder.feed(b"".join(map(bytes, encode(greeting)))) is not None
