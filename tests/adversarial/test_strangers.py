"""Who is not on the list gets nowhere, and who is gets in only as itself."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from heterofed import TaskResult
from heterofed import errors as e
from heterofed.identity.keys import load_key
from heterofed.identity.task_file import load_task, task_path
from heterofed.protocol import messages as m
from heterofed.rendezvous import join
from heterofed.transport import zeromq
from heterofed.transport.base import Lost, LostReason, Opened
from heterofed.transport.zeromq.zap import ClientKeys, new_key_pair
from tests.adversarial.peers import TASK, Link, LyingHost, Victim, connected, hello
from tests.e2e.tiny import TinyCollaborator, TinyHost


def address(home: Path) -> str:
    return load_task(task_path(TASK, home)).address


def wait_for_host(home: Path) -> None:
    connected("bob").close()


def knock(home: Path, keys: ClientKeys | None, message: m.Message) -> list[LostReason]:
    """Try to get in and say something; gives how that ended."""
    endpoint = zeromq.connect(address(home), keys=keys)
    try:
        endpoint.channel.send([b"".join(map(bytes, _frames(message)))])
        ended: list[LostReason] = []
        deadline = time.monotonic() + 30
        while not ended and time.monotonic() < deadline:
            for event in endpoint.poll(0.05):
                assert not isinstance(event, Opened), "a stranger got in"
                ended += [event.reason] if isinstance(event, Lost) else []
        return ended
    finally:
        endpoint.close()


def _frames(message: m.Message) -> list[Any]:
    from heterofed.protocol.codec import encode

    return encode(message)


@pytest.mark.slow
def test_no_key_wrong_key_and_wrong_host(offices: Path, tmp_path: Path) -> None:
    host = Victim(TinyHost(tmp_path, collaborators=["bob", "carol"]))
    wait_for_host(offices)
    alice, bob = load_key("alice", offices), load_key("bob", offices)
    stranger = new_key_pair()
    for keys in (
        None,
        ClientKeys(*stranger, alice.public),
        ClientKeys(bob.public, bob.secret, stranger[0]),
        ClientKeys(alice.public, alice.secret, alice.public),  # the Host's own key is nobody's
    ):
        for _ in range(3):
            assert knock(offices, keys, hello("bob")) == [LostReason.HANDSHAKE_FAILED]
    guests = [Victim(TinyCollaborator(tmp_path, name)) for name in ("bob", "carol")]
    for each in (host, *guests):
        assert isinstance(each.outcome(), TaskResult)


@pytest.mark.long
def test_a_right_key_under_another_name(
    offices: Path, tmp_path: Path, open_links: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    host = Victim(TinyHost(tmp_path, collaborators=["bob", "carol"], join_timeout=10))
    good = hello("bob")
    with caplog.at_level(logging.INFO, "heterofed"):
        for claimed in ("carol", "alice", "eve", "bob2", "Bob"):
            bob = connected("bob")
            open_links.append(bob)
            fields = {name: getattr(good, name) for name in m.Hello.__struct_fields__}
            bob.say(m.Hello(**{**fields, "party": claimed}))
            refusal, _ = bob.hear(m.Abort)
            assert refusal.code == "stranger"
    assert "is here" not in caplog.text
    outcome = host.outcome()
    assert isinstance(outcome, e.JoinTimeoutError)
    assert "bob, carol" in str(outcome)


@pytest.mark.slow
def test_one_party_cannot_keep_another_out(
    offices: Path, tmp_path: Path, open_links: list[Any]
) -> None:
    host = Victim(TinyHost(tmp_path, collaborators=["bob", "carol"]))
    for _ in range(100):  # more than its share of connections
        endpoint = place_endpoint(offices)
        endpoint.channel.send([b"x"])
        open_links.append(endpoint)
    carol = Victim(TinyCollaborator(tmp_path, "carol"))
    time.sleep(1)
    for each in open_links:
        each.close()
    bob = Victim(TinyCollaborator(tmp_path, "bob"))
    for each in (host, bob, carol):
        assert isinstance(each.outcome(), TaskResult)


def place_endpoint(home: Path) -> Any:
    bob, alice = load_key("bob", home), load_key("alice", home)
    return zeromq.connect(address(home), keys=ClientKeys(bob.public, bob.secret, alice.public))


@pytest.mark.long
def test_other_task_purpose_version_and_terms(
    offices: Path, tmp_path: Path, open_links: list[Any]
) -> None:
    host = Victim(TinyHost(tmp_path, collaborators=["bob", "carol"], join_timeout=10))
    good = hello("bob")

    def say(**changes: Any) -> Link:
        link = connected("bob")
        open_links.append(link)
        fields = {name: getattr(good, name) for name in m.Hello.__struct_fields__}
        link.say(m.Hello(**{**fields, **changes}))
        return link

    assert say(versions=(99,)).hear(m.Abort)[0].code == "other_version"
    assert say(task=bytes(32)).hear(m.Abort)[0].code == "other_task"
    assert say(purpose="psi").hear(m.Abort)[0].code == "other_task"
    for lie in (b"", b"{}", b"\xff" * 100, good.terms.replace(b"false", b"true")):
        answer, _ = say(terms=lie).hear(m.Terms)
        assert answer.terms == good.terms  # the Host's own, which bob's file holds anyway
    assert isinstance(host.outcome(), e.JoinTimeoutError)


@pytest.mark.long
def test_an_insecure_party_meets_nobody_with_keys(
    offices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "HANDSHAKE_SECONDS", 1.0)
    host = Victim(TinyHost(tmp_path, collaborators=["bob", "carol"], join_timeout=10))
    path = task_path(TASK, offices)
    keep = path.read_text()
    wait_for_host(offices)
    lines = [line for line in keep.splitlines() if not line.startswith("key = ")]
    path.write_text("\n".join(lines))
    from heterofed.cli.task import accept_task

    accept_task(TASK, "bob", lambda _terms, _party: True)
    outcome = Victim(TinyCollaborator(tmp_path, "bob", insecure=True)).outcome()
    assert isinstance(outcome, e.HandshakeError)
    assert isinstance(host.outcome(), e.JoinTimeoutError)


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ({"shuffle": True}, "shuffle: false here, true there"),
        ({"max_rounds": 10**6}, "max_rounds: 2 here, 1000000 there"),
        ({"max_peer_ids": 2**32}, "max_peer_ids: 10000000 here, 4294967296 there"),
        ({"psi_protocol": "ecdh"}, "psi_protocol: rsa here, ecdh there"),
        ({"host": "mallory"}, "host: alice here, mallory there"),
        ({"collaborators": ("bob", "eve")}, "collaborators: bob here, bob, eve there"),
    ],
)
def test_a_host_that_announces_another_plan_than_was_accepted(
    lie: dict[str, Any], says: str, office: Path, tmp_path: Path
) -> None:
    asked = []

    class Bob(TinyCollaborator):
        def load_local_ids(self) -> list[str]:
            asked.append(True)
            return super().load_local_ids()

    bob, host = Victim(Bob(tmp_path)), LyingHost(**lie)
    host.welcome()
    outcome = bob.outcome(meanwhile=host.link.pump)
    host.close()
    assert isinstance(outcome, e.RemoteProtocolError), repr(outcome)
    assert says in str(outcome)
    assert not asked
