"""Somebody between the parties reads ciphertext only, and can do nothing but cut the link."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq

from heterofed import TaskResult
from heterofed import errors as e
from heterofed.cli.task import accept_task
from heterofed.identity.keys import load_key
from heterofed.identity.task_file import load_task, task_path
from heterofed.rendezvous import join
from heterofed.transport.base import Opened, Received
from heterofed.transport.zeromq import connect, listen
from heterofed.transport.zeromq.zap import ClientKeys, ServerKeys, new_key_pair
from tests.adversarial.middle import Middle
from tests.adversarial.peers import TASK, Victim
from tests.e2e.tiny import TinyCollaborator, TinyHost, run
from tests.identity.offices import Command, free_port


def redirect(home: Path, port: int) -> None:
    """Let the task file name a port, as if names resolved to the attacker; no term changes."""
    path = task_path(TASK, home)
    task = load_task(path)
    bind = f'bind = "{task.listens_at}"\n'
    text = path.read_text().replace(task.address, f"tcp://127.0.0.1:{port}")
    path.write_text(text.replace('address = "', bind + 'address = "', 1))


def port_of(home: Path) -> int:
    return int(load_task(task_path(TASK, home)).address.rpartition(":")[2])


@pytest.fixture
def middle(office: Path, open_links: list[Any]) -> Middle:
    """Between bob and alice."""
    relay = Middle(port_of(office))
    open_links.append(relay)
    redirect(office, relay.port)
    return relay


PLAIN = [b"HF\x01\x00", b"tiny", b"Welcome", b"Features", b"PsiBlinded", b"max_rounds"]


@pytest.mark.slow
def test_only_ciphertext_is_seen(middle: Middle, tmp_path: Path) -> None:
    results = run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    assert all(isinstance(each, TaskResult) for each in results), results
    seen = bytes(middle.seen["up"] + middle.seen["down"])
    assert len(seen) > 20_000
    assert not [each for each in PLAIN if each in seen]


@pytest.mark.slow
def test_without_keys_all_of_it_is_seen(home: Path, tmp_path: Path, command: Command) -> None:
    """The test above can fail."""
    given = ["--host", "alice", "--address", f"tcp://127.0.0.1:{free_port()}"]
    command("task", "new", TASK, *given, "--collaborator", "bob", "--insecure",
            "--plan", "max_rounds=2")  # fmt: skip
    relay = Middle(port_of(home))
    redirect(home, relay.port)
    accept_task(TASK, "bob", lambda _terms, _party: True)
    run(TinyHost(tmp_path, insecure=True), TinyCollaborator(tmp_path, insecure=True))
    relay.close()
    seen = bytes(relay.seen["up"] + relay.seen["down"])
    assert [each for each in PLAIN if each in seen] == PLAIN


def flip(at: int) -> Callable[[str, bytes], bytes]:
    """Change one byte of what goes up, once so much has passed."""
    passed = 0

    def tamper(way: str, data: bytes) -> bytes:
        nonlocal passed
        if way != "up":
            return data
        before, passed = passed, passed + len(data)
        if before <= at < passed:
            data = bytearray(data)  # type: ignore[assignment]
            data[at - before] ^= 1  # type: ignore[index]
        return bytes(data)

    return tamper


def repeat(at: int) -> Callable[[str, bytes], bytes]:
    """Say twice what passes there."""
    passed = 0

    def tamper(way: str, data: bytes) -> bytes:
        nonlocal passed
        if way != "up":
            return data
        before, passed = passed, passed + len(data)
        return data + data if before <= at < passed else data

    return tamper


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return []


@pytest.mark.slow
@pytest.mark.parametrize("tamper", [flip, repeat])
@pytest.mark.parametrize("at", [4_000, 15_000])
def test_a_changed_or_repeated_byte_ends_the_link(
    tamper: Any, at: int, middle: Middle, tmp_path: Path
) -> None:
    middle.tamper = tamper(at)
    host, bob = run(
        TinyHost(tmp_path, join_timeout=20), TinyCollaborator(tmp_path, join_timeout=20)
    )
    assert len(middle.seen["up"]) > at
    if isinstance(host, TaskResult):  # the link was made anew, and lost nothing
        clean = tmp_path / "clean"
        (reference, _) = run(TinyHost(clean), TinyCollaborator(clean))
        for name, path in host.models.items():
            mine, theirs = torch.load(path), torch.load(reference.models[name])
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)
        return
    for outcome in (host, bob):
        assert isinstance(outcome, e.PeerLostError | e.JoinTimeoutError), outcome
        assert not isinstance(outcome, e.RemoteProtocolError)


@pytest.mark.slow
def test_a_replayed_connection_says_nothing(open_links: list[Any]) -> None:
    alice, bob = new_key_pair(), new_key_pair()
    listener = listen("tcp://127.0.0.1:*", keys=ServerKeys(*alice, {"bob": bob[0]}))
    port = int(listener.address.rpartition(":")[2])
    relay = Middle(port)
    honest = connect(f"tcp://127.0.0.1:{relay.port}", keys=ClientKeys(*bob, alice[0]))
    open_links += [listener, relay, honest]
    honest.channel.send([b"let me in"])
    heard = pump(listener, honest)
    assert [bytes(each.frame) for each in heard if isinstance(each, Received)] == [b"let me in"]
    recorded = bytes(relay.seen["up"])
    honest.close()
    pump(listener)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), 5) as replay:
            for start in range(0, len(recorded), 64):
                try:
                    replay.sendall(recorded[start : start + 64])
                except OSError:
                    break
                time.sleep(0.005)
            assert [each for each in pump(listener) if isinstance(each, Received | Opened)] == []


def pump(*endpoints: Any, seconds: float = 0.7) -> list[Any]:
    """What the first of them hears."""
    heard: list[Any] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for number, each in enumerate(endpoints):
            events = each.poll(0.01)
            heard += events if number == 0 else []
    return heard


# -- downgrades ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mechanism", "says"),
    [
        ("null", "a listener without keys"),
        ("plain", "does not speak ZeroMQ as a Host does"),
        ("curve", "heterofed keys show"),
    ],
)
def test_a_false_host_hears_nothing(
    mechanism: str,
    says: str,
    office: Path,
    tmp_path: Path,
    open_links: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It listens where alice should, without keys, with passwords, or with keys of its own."""
    monkeypatch.setattr(join, "HANDSHAKE_SECONDS", 1.0)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as false:
        false.setsockopt(zmq.LINGER, 0)
        if mechanism == "plain":
            false.setsockopt(zmq.PLAIN_SERVER, 1)
        if mechanism == "curve":
            public, secret = new_key_pair()
            false.setsockopt(zmq.CURVE_SERVER, 1)
            false.setsockopt(zmq.CURVE_PUBLICKEY, public.encode())
            false.setsockopt(zmq.CURVE_SECRETKEY, secret.encode())
        false.bind(f"tcp://127.0.0.1:{port_of(office)}")
        relay = Middle(port_of(office))
        open_links.append(relay)
        redirect(office, relay.port)
        bob = Victim(TinyCollaborator(tmp_path, join_timeout=20))
        outcome = bob.outcome(60)
        assert isinstance(outcome, e.HandshakeError)
        assert says in str(outcome)
        assert false.poll(200) == 0
    secret = load_key("bob", office).secret
    for way in relay.seen.values():
        assert not [each for each in (*PLAIN, secret.encode()) if each in way]


@pytest.mark.long
def test_a_party_that_is_asked_for_no_encryption_refuses(
    office: Path, tmp_path: Path, open_links: list[Any]
) -> None:
    """The relay rewrites the mechanism that each side names in its greeting."""

    def downgrade(_way: str, data: bytes) -> bytes:
        return data.replace(b"CURVE" + bytes(15), b"NULL" + bytes(16))

    relay = Middle(port_of(office), downgrade)
    open_links.append(relay)
    redirect(office, relay.port)
    host, bob = run(TinyHost(tmp_path, join_timeout=5), TinyCollaborator(tmp_path, join_timeout=20))
    assert isinstance(host, e.JoinTimeoutError)
    assert isinstance(bob, e.HandshakeError | e.JoinTimeoutError), bob
    assert b"CURVE" in relay.seen["up"]
    assert not [each for each in PLAIN if each in relay.seen["up"]]
    assert struct.unpack("!B", relay.seen["up"][:1]) == (255,)  # a ZMTP greeting it was
