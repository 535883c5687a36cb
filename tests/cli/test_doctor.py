"""`heterofed doctor`: what it says of one machine, of two and of their connection; its forecast."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from heterofed import simulate
from heterofed.cli import machine, made_up, measures
from heterofed.cli.diagnosis import Asked, diagnosed
from heterofed.cli.forecast import is_shared, psi_forecast, train_forecast
from heterofed.cli.made_up import MadeUpCollaborator, MadeUpHost
from heterofed.cli.probe import probe_as_collaborator, probe_as_host
from heterofed.errors import (
    JoinTimeoutError,
    OtherTaskError,
    OtherTermsError,
    RemoteProtocolError,
    TaskFailed,
)
from heterofed.identity.task_file import load_task
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer, Timeouts
from heterofed.protocol.messages import Facts, LinkFacts, ProbeBegin, ProbePing, Work
from heterofed.protocol.states import Role
from heterofed.rendezvous.admission import Admission
from heterofed.rendezvous.agreement import task_digest
from heterofed.rendezvous.backend import TaskPlace
from tests.identity.offices import Command, open_offices
from tests.protocol.link import FACTS, LINK, WORK

ASKED = Asked(ids=300, common=None, rounds=2, batch_size=32, width=8, columns=5, wait=30.0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("HETEROFED_HOME", str(home))
    return home


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures a few ids and batches; the numbers mean little, and what is done is the same."""
    monkeypatch.setattr(measures, "MEASURED_IDS", {"ecdh": 200, "rsa": 20})
    monkeypatch.setattr(made_up, "STEPS", 5)


def place(home: Path, path: Path, party: str) -> TaskPlace:
    return TaskPlace(load_task(path), party, home, insecure=True)


def measured(_work: Work) -> Facts:
    return FACTS


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Call at once; gives what each returned or raised."""
    done: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        try:
            done[number] = calls[number]()
        except TaskFailed as error:
            done[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    return done


# -- one machine -----------------------------------------------------------------------------------


def test_without_a_task_it_looks_at_this_machine(home: Path, command: Command) -> None:
    assert command("doctor") == 0
    assert "this machine: heterofed " in command.out
    assert "open files" in command.out
    assert "there is no task file here yet" in command.out


def test_a_machine_that_is_too_small_is_told_with_remedies() -> None:
    small = machine.Machine("1", "3.13", "2", 1, 10**6, 10**6, 256)
    said = list(machine.warnings(small, 10**6))
    assert [each.partition(":")[2].split()[0] for each in said] == ["raise", "end", "make"]
    large = machine.Machine("1", "3.13", "2", 1, 10**11, 10**11, 4096)
    assert not list(machine.warnings(large, 10**6))


def test_a_container_has_the_memory_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"memory.max": "5000000", "memory.current": "2000000"}
    plain = Path.read_text

    def read(path: Path, *given: Any, **how: Any) -> str:
        return files[path.name] if path.name in files else plain(path, *given, **how)

    monkeypatch.setattr(Path, "read_text", read)
    assert machine.free_memory() == 3_000_000


# -- two machines ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_both_ends_say_the_same(home: Path, tmp_path: Path) -> None:
    open_offices(home, plan=["psi_protocol=ecdh"])
    host, shop = together(
        lambda: list(diagnosed("tiny", "alice", tmp_path, ASKED)),
        lambda: list(diagnosed("tiny", "bob", tmp_path, ASKED)),
    )
    (at_host,), (at_shop,) = ([data for _, data in each if data] for each in (host, shop))
    assert at_host.pop("party") == "bob"
    assert at_shop.pop("party") == "alice"
    assert at_host == at_shop
    assert at_host["work"]["protocol"] == "ecdh"
    assert abs(at_host["link"]["ahead"]) < 5  # it is the same clock
    assert at_host["collaborator"]["step"] > 0
    assert at_host["same_machine"] is machine.BOOT.exists()
    text = "\n".join(line for line, _ in host)
    for part in ("alice's key is", "round trip", "intersection of 300 and 300 ids", "2 rounds"):
        assert part in text
    assert json.dumps(at_host)


def test_they_measure_one_after_the_other(home: Path) -> None:
    path = open_offices(home)
    now: list[str] = []
    together_with: list[list[str]] = []

    def measure(name: str) -> Callable[[Work], Facts]:
        def measured(_work: Work) -> Facts:
            now.append(name)
            time.sleep(0.2)
            together_with.append(now.copy())
            now.remove(name)
            return FACTS

        return measured

    together(
        lambda: list(probe_as_host(place(home, path, "alice"), "alice", WORK, measure("host"), 30)),
        lambda: probe_as_collaborator(place(home, path, "bob"), "bob", measure("shop"), 30),
    )
    assert together_with == [["host"], ["shop"]]


@pytest.mark.slow
def test_several_collaborators_are_probed_one_by_one(home: Path) -> None:
    path = open_offices(home, ["bob", "carol"])
    host, *others = together(
        lambda: list(probe_as_host(place(home, path, "alice"), "alice", WORK, measured, 30)),
        lambda: probe_as_collaborator(place(home, path, "bob"), "bob", measured, 30),
        lambda: probe_as_collaborator(place(home, path, "carol"), "carol", measured, 30),
    )
    assert {probe.party for probe in host} == {"bob", "carol"}
    assert [each.party for each in others] == ["alice", "alice"]


@pytest.mark.slow
def test_one_that_does_not_come_is_named(home: Path, command: Command) -> None:
    open_offices(home)
    assert command("doctor", "tiny", "--party", "alice", "--wait", "0.2") == 1
    assert "no probe came from bob" in command.err
    assert "heterofed doctor tiny" in command.err
    assert command("doctor", "tiny", "--party", "bob", "--wait", "0.2") == 1
    assert "start `heterofed doctor tiny` there" in command.err


def test_numbers_that_do_not_fit_together(home: Path, command: Command) -> None:
    open_offices(home)
    given = ("--party", "alice", "--ids", "10", "--common", "11")
    assert command("doctor", "tiny", *given) == 2
    assert "--common 11: give at most the 10 ids" in command.err


def test_terms_that_are_not_accepted_are_told(home: Path, command: Command) -> None:
    open_offices(home, accept=False)
    assert command("doctor", "tiny", "--party", "bob", "--wait", "0") == 1
    assert "WARNING: bob has not accepted these terms" in command.out


@pytest.mark.slow
def test_task_files_that_differ_are_compared(home: Path) -> None:
    path = open_offices(home)
    ours = place(home, path, "alice")
    theirs = place(home, path, "bob")
    theirs.terms = structs.replace(theirs.task, plan={"seed": 3, "shuffle": True}).terms()
    host, shop = together(
        lambda: list(probe_as_host(ours, "alice", WORK, measured, 2)),
        lambda: probe_as_collaborator(theirs, "bob", measured, 10),
    )
    assert isinstance(shop, OtherTermsError)
    assert "shuffle" in str(shop)
    assert isinstance(host, JoinTimeoutError)


# -- hostile ones ----------------------------------------------------------------------------------


def hosted(home: Path, path: Path, purpose: Any, answer: Callable[[Party, Peer], Any]) -> None:
    """A Host that admits bob and then does as it likes."""
    there = place(home, path, "alice")
    with there.listen() as endpoint:
        host = Party("alice", Role.HOST, endpoint, timeouts=Timeouts())
        judge = Admission(task_digest("tiny"), purpose, "alice", ["bob"], terms=there.terms).judge
        host.admission = lambda visitor, hello: judge(host, visitor, hello)
        until = host.clock() + 3
        while not host.peers and host.clock() < until:
            host.pump(0.2)
        for peer in host.peers.values():
            answer(host, peer)
        host.close()


@pytest.mark.slow
def test_a_host_that_runs_the_task_already_refuses(home: Path) -> None:
    path = open_offices(home)
    _, shop = together(
        lambda: hosted(home, path, "train", lambda _host, _peer: None),
        lambda: probe_as_collaborator(place(home, path, "bob"), "bob", measured, 10),
    )
    assert isinstance(shop, OtherTaskError)
    assert "another purpose" in str(shop)


def test_a_host_whose_work_cannot_be_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = open_offices(home)

    def lie(host: Party, peer: Peer) -> None:
        monkeypatch.setattr(peer.session, "send", lambda *_: None)
        host.post(peer, ProbeBegin(structs.replace(WORK, common=101)))

    _, shop = together(
        lambda: hosted(home, path, "probe", lie),
        lambda: probe_as_collaborator(place(home, path, "bob"), "bob", measured, 10),
    )
    assert isinstance(shop, RemoteProtocolError)
    assert "more common ids than ids" in str(shop)


def test_a_collaborator_that_breaks_the_protocol_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = open_offices(home)

    def lie(party: Party, host: Peer) -> LinkFacts:
        monkeypatch.setattr(host.session, "send", lambda *_: None)
        party.post(host, ProbePing(7))
        return LINK

    monkeypatch.setattr("heterofed.cli.probe.measured_link", lie)
    host, _ = together(
        lambda: list(probe_as_host(place(home, path, "alice"), "alice", WORK, measured, 10)),
        lambda: probe_as_collaborator(place(home, path, "bob"), "bob", measured, 10),
    )
    assert isinstance(host, RemoteProtocolError)
    assert "not the ping that is next" in str(host)
    assert host.party == "bob"


# -- the forecast ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["ecdh", "rsa"])
def test_bytes_are_those_of_a_run(protocol: Any, tmp_path: Path) -> None:
    ids = [f"id-{number:04}" for number in range(300 if protocol == "ecdh" else 60)]
    work = Work(len(ids), len(ids), 3, 16, 24, 5, protocol)
    host = MadeUpHost(ids, work, max_rounds=3, psi_protocol=protocol, results_dir=tmp_path)
    shop = MadeUpCollaborator(ids, work, results_dir=tmp_path)
    result = simulate(host, [shop], task_id="bytes").results["host"]
    facts = structs.replace(FACTS, ids=len(ids))
    psi = psi_forecast(work, facts, facts, LINK)
    train = train_forecast(work, facts, facts, LINK)
    phases = result.phases
    assert psi.from_host == pytest.approx(phases["psi"].bytes_sent, rel=0.1)
    assert psi.to_host == pytest.approx(phases["psi"].bytes_received, rel=0.1)
    sent = sum(phases[each].bytes_sent for each in ("train", "test"))
    received = sum(phases[each].bytes_received for each in ("train", "test"))
    assert train.from_host == pytest.approx(sent, rel=0.1)
    assert train.to_host == pytest.approx(received, rel=0.1)


def test_parties_on_one_machine_share_its_cores() -> None:
    facts = structs.replace(FACTS, cores=2, ask=3e-3, sign=2e-3, tag=1e-3, busy=1.8)
    work = structs.replace(WORK, ids=100)
    apart = psi_forecast(work, facts, structs.replace(facts, ids=100), LINK).seconds
    here = structs.replace(facts, ids=100, machine=machine.machine_digest(b"task"))
    shared = psi_forecast(work, here, here, LINK).seconds
    assert shared - apart == pytest.approx(0.6 * 1.8 / 2 - 0.3)
    idle = structs.replace(here, busy=0.5)
    assert psi_forecast(work, idle, idle, LINK).seconds == pytest.approx(apart)
    late = structs.replace(facts, ids=100, start=2.0)
    assert psi_forecast(work, facts, late, LINK).seconds == pytest.approx(apart + 2.0)
    other = structs.replace(here, machine=machine.machine_digest(b"another task"))
    assert not is_shared(here, other)
    assert not is_shared(facts, facts)


def test_a_slow_way_and_slow_machines_take_longer() -> None:
    def seconds(facts: Facts, link: LinkFacts) -> tuple[float, float]:
        found = (WORK, facts, facts, link)
        return psi_forecast(*found).seconds, train_forecast(*found).seconds

    psi, train = seconds(FACTS, LINK)
    far = structs.replace(LINK, rtt=1.0)
    steps = WORK.rounds * 2  # 64 of 80 rows in batches of 32
    assert seconds(FACTS, far)[1] == pytest.approx(train + steps * (1.0 - LINK.rtt))
    assert seconds(FACTS, structs.replace(LINK, up=10.0))[0] > 10 * psi
    assert seconds(structs.replace(FACTS, sign=1.0), LINK)[0] > 50 * psi
    assert seconds(structs.replace(FACTS, step=1.0), LINK)[1] > 10 * train
