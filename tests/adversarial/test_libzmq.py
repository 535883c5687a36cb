"""Whatever is said to libzmq itself, before any code of ours: the process outlives it.

A Host as a process of its own (ROUTER), which then does its task with an honest Collaborator; and a
Collaborator's transport (DEALER) that dials somebody hostile; each with keys and without.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from heterofed import TaskResult
from heterofed.identity.keys import load_key
from heterofed.identity.task_file import load_task, task_path
from heterofed.transport.zeromq import listen
from heterofed.transport.zeromq.routes import was_made
from heterofed.transport.zeromq.zap import new_key_pair
from tests.adversarial.hostile_zmtp import FIRST_UNSEEDED, misbehave
from tests.adversarial.peers import TASK, Victim
from tests.adversarial.test_door import is_closed, port, until
from tests.adversarial.zmtp import Keys, Wire, framed, handshake, of_dealer, properties
from tests.e2e.processes import ROOT, Parties, PartyProcess
from tests.e2e.tiny import TinyCollaborator
from tests.identity.offices import open_offices

pytestmark = pytest.mark.slow

OPEN_AT_ONCE = 40
PATIENCE = 0.2  # seconds for an answer, which mostly does not come

many = [60, pytest.param(1200, marks=[pytest.mark.long, pytest.mark.timeout(580)])]
keyed = pytest.mark.parametrize("keyed", [True, False], ids=["keys", "no keys"])


def besieged(parties: Parties, results: Path, *more: str) -> PartyProcess:
    """A Host that waits for ever."""
    return parties.start("-m", "tests.e2e.tiny", "host", TASK, str(results), "besieged", *more)


def dial(address: str, host: PartyProcess | None = None) -> Wire:
    name, _, number = address.removeprefix("tcp://").rpartition(":")
    deadline = time.monotonic() + 30
    while True:
        try:
            link = socket.create_connection((name, int(number)), 2)
        except ConnectionRefusedError:
            assert host is None or host.running, host.output
            assert time.monotonic() < deadline, "never there"
            time.sleep(0.05)
            continue
        link.settimeout(PATIENCE)
        return Wire(link)


@contextlib.contextmanager
def at_most(count: int) -> Iterator[deque[Wire]]:
    """Connections, of which the oldest is closed where there are more."""
    wires: deque[Wire] = deque()
    try:
        yield wires
    finally:
        for each in wires:
            each.socket.close()


def keep(wires: deque[Wire], wire: Wire) -> None:
    wires.append(wire)
    if len(wires) > OPEN_AT_ONCE:
        wires.popleft().socket.close()


@pytest.mark.long
@keyed
@pytest.mark.parametrize("connections", many)
def test_a_host_outlives_what_comes(
    connections: int, keyed: bool, home: Path, tmp_path: Path, parties: Parties
) -> None:
    open_offices(home, plan=["max_rounds=2"], keyless=not keyed)
    address = load_task(task_path(TASK, home)).address
    keys = Keys(load_key("bob", home).secret, load_key("alice", home).public) if keyed else None
    host = besieged(parties, tmp_path, "insecure")
    draw = Random(connections)
    with at_most(OPEN_AT_ONCE) as wires:
        for number in range(connections):
            wire = dial(address, host)
            keep(wires, wire)
            misbehave(wire, keys, draw)
            assert host.running, f"connection {number}:\n{host.output}"
    bob = Victim(TinyCollaborator(tmp_path, insecure=True))
    assert isinstance(bob.outcome(100), TaskResult)
    assert host.wait() == 0


@pytest.mark.long
@keyed
@pytest.mark.parametrize("connections", many)
def test_a_collaborator_outlives_what_answers(connections: int, keyed: bool) -> None:
    host, mine = new_key_pair(), new_key_pair()
    given = [host[0], *mine] if keyed else []
    keys = Keys(host[1]) if keyed else None
    draw = Random(connections)
    with socket.create_server(("127.0.0.1", 0)) as server, at_most(OPEN_AT_ONCE) as wires:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.settimeout(30)
        command = [sys.executable, "-m", "tests.adversarial.dial", address, *given]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as dialler:
            for number in range(connections):
                link, _ = server.accept()
                link.settimeout(PATIENCE)
                wire = Wire(link, is_server=True)
                keep(wires, wire)
                misbehave(wire, keys, draw)
                assert dialler.poll() is None, f"connection {number}"
            server.close()
            dialler.communicate(b"\n", timeout=60)
        assert dialler.returncode == 0


def test_the_routing_id_of_a_later_peer(home: Path, tmp_path: Path, parties: Parties) -> None:
    """Whoever claimed the id that ROUTER would make some connections later ended the Host."""
    open_offices(home, plan=["max_rounds=2"])
    address = load_task(task_path(TASK, home)).address
    keys = Keys(load_key("bob", home).secret, load_key("alice", home).public)
    host = besieged(parties, tmp_path)
    with at_most(OPEN_AT_ONCE) as wires:
        for number in [*range(1, 6), *[None] * 8]:
            claimed = b"" if number is None else b"\0" + struct.pack(">I", FIRST_UNSEEDED + number)
            wire = dial(address, host)
            keep(wires, wire)
            handshake(wire, keys, properties(of_dealer(claimed)))
            if number is None:
                wire.say(b"x")
        time.sleep(0.3)
        assert host.running, host.output
    assert isinstance(Victim(TinyCollaborator(tmp_path)).outcome(100), TaskResult)
    assert host.wait() == 0


def test_nobody_can_tell_which_routing_id_comes_next() -> None:
    first = []
    for _ in range(8):
        with contextlib.closing(listen("tcp://127.0.0.1:*")) as endpoint:
            first.append(endpoint.first_route)
    assert len(set(first)) == len(first)
    assert FIRST_UNSEEDED not in first
    assert not any(b - a in range(100) for a, b in itertools.pairwise(first))


def test_whoever_claims_a_routing_id_is_closed_when_it_speaks() -> None:
    with contextlib.closing(listen("tcp://127.0.0.1:*")) as endpoint, at_most(9) as wires:
        address = f"tcp://127.0.0.1:{port(endpoint)}"
        later = (endpoint.first_route + (1 << 31)) % 2**32
        for claimed in (b"", b"me", b"\0" + struct.pack(">I", later), b"\0", bytes(64)):
            wire = dial(address)
            wires.append(wire)
            handshake(wire, None, properties(of_dealer(claimed)))
            wire.say(b"x")
        honest, *others = [each.socket for each in wires]
        until(lambda: all(map(is_closed, others)), endpoint, seconds=10)
        assert not is_closed(honest)


@pytest.mark.parametrize("version", [None, 0, 1], ids=["unversioned", "1.0", "2.0"])
def test_old_versions_are_refused_without_keys_too(version: int | None) -> None:
    """They bring a routing id as a message, and an assertion that holds only while we listen."""
    with contextlib.closing(listen("tcp://127.0.0.1:*")) as endpoint, at_most(9) as wires:
        wire = dial(f"tcp://127.0.0.1:{port(endpoint)}")
        wires.append(wire)
        start = b"" if version is None else b"\xff" + bytes(8) + b"\x7f" + bytes([version, 5])
        wire.raw(start + framed(b"me") + framed(b"x"))
        until(lambda: is_closed(wire.socket), endpoint, seconds=10)


def test_which_routing_ids_were_made() -> None:
    def route(number: int) -> bytes:
        return b"\0" + struct.pack(">I", number % 2**32)

    first = 2**32 - 2
    assert was_made(route(first), first, 0)
    assert was_made(route(first + 3), first, 3)
    assert not was_made(route(first - 1), first, 3)
    assert not was_made(route(first + 2**31), first, 3)
    assert not was_made(route(first) + b"x", first, 3)
    assert not was_made(b"", first, 3)
