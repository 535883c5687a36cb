"""An intersection that was interrupted goes on: what was unblinded is not asked again."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

import psi
from heterofed import errors as e
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.intersection.request import CHUNK_IDS, CHUNKS_AHEAD, Request
from heterofed.intersection.storage import TAGS
from heterofed.messaging.party import Party
from heterofed.protocol.messages import PsiBegin, PsiBlinded, PsiKey, PsiRenew, PsiSigned, PsiTags
from psi import Requester, Signer
from psi.signing import RESIGN_VALUES
from tests.e2e.processes import Parties
from tests.e2e.tiny import TinyCollaborator, TinyHost, run
from tests.runs.test_resume import CrashError, crashing

pytestmark = pytest.mark.slow


def dying_before_it_keeps(scheduler: Any) -> Any:
    """The scheduler, which dies once ids are matched, before it has written which."""

    def die(*_: Any) -> None:
        scheduler._heterofed.run.party.close(0)
        scheduler._heterofed.run.party.abort = lambda *_: None
        raise CrashError

    scheduler._heterofed.write = die
    return scheduler


PROTOCOLS = pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
VICTIMS = pytest.mark.parametrize("victim", ["initiator", "collaborator"])

MORTAL = """
import os, signal, sys, time
from heterofed.cli.app import main
from psi.requesting import Requester
from psi.signing import Signer

kind, name = (Requester, "unblind") if "initiator" in sys.argv else (Signer, "sign")
lives = int(sys.argv.pop(1))
real = getattr(kind, name)

def dies(self, chunk):
    global lives
    if kind is Requester:
        time.sleep(0.1)  # so that whoever signs is quicker
    done = real(self, chunk)
    lives -= 1
    if not lives:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

setattr(kind, name, dies)
main()
"""
"""The command, killed after so many chunks were unblinded, or signed (and not sent)."""


class Commands:
    """Both parties' commands over the same files, started as often as it takes."""

    def __init__(self, parties: Parties, folder: Path, protocol: str, asked: int, held: int):
        self._parties, self._protocol = parties, protocol
        self.folder = folder
        self.outs = {role: folder / f"{role}.out" for role in ("initiator", "collaborator")}
        self.common = [str(number) for number in range(asked - held // 2, asked)]
        for role, numbers in (
            ("initiator", range(asked)),
            ("collaborator", range(asked - held // 2, asked + held - held // 2)),
        ):
            text = "".join(f"{number}\n" for number in numbers)
            (folder / f"{role}.txt").write_text(text)

    def start(self, role: str, lives: int = 0) -> Any:
        given = ["--task", "t", "--role", role, "--protocol", self._protocol]
        given += ["--ids", str(self.folder / f"{role}.txt"), "--out", str(self.outs[role])]
        given = ["psi", *given, "--join-timeout", "60", "--json"]
        program = ["-c", MORTAL, str(lives)] if lives else ["-m", "heterofed"]
        return self._parties.start(*program, *given)

    def kill(self, victim: str, lives: int) -> None:
        """Start both, and have one killed after so many chunks; the other one ends by itself."""
        (survivor,) = {*self.outs} - {victim}
        started = {victim: self.start(victim, lives), survivor: self.start(survivor)}
        assert started[victim].wait() == -9, started[victim].output
        assert started[survivor].wait() == 1, started[survivor].output
        assert "PeerLostError" in started[survivor].output

    def finish(self) -> None:
        again = [self.start(role) for role in self.outs]
        assert [each.wait() for each in again] == [0, 0], [each.output for each in again]
        for out in self.outs.values():
            assert out.read_text().splitlines() == self.common
        assert not [*self.folder.glob(".*")]

    def spent(self) -> tuple[int, int]:
        """Values signed at the collaborator, tags matched at the initiator."""
        folder = self._parties.home / "budgets"
        signed = psi.Budget(folder, peer="", task="t").spent()
        return signed, psi.Budget(folder, peer="", task="t", counts=TAGS).spent()


@pytest.mark.long
@VICTIMS
def test_a_killed_command_goes_on(victim: str, parties: Parties, tmp_path: Path) -> None:
    ids = 8 * CHUNK_IDS
    commands = Commands(parties, tmp_path, "ecdh", ids, ids)
    commands.kill(victim, lives=3)
    folder = parties.home / "intersections"
    assert {path.suffix for path in folder.iterdir()} == {".psi", ".key"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    commands.finish()
    assert commands.spent() == (ids, ids)  # what was lost on the way came again as it was
    assert {path.suffix for path in folder.iterdir()} == {".psi"}  # the secret key is gone


@pytest.mark.long
@VICTIMS
@PROTOCOLS
def test_however_often_it_is_killed(
    protocol: str, victim: str, parties: Parties, tmp_path: Path
) -> None:
    """Of more ids than may be signed again in a run, each kill loses no more than its window."""
    ids, kills = RESIGN_VALUES + 4 * CHUNK_IDS, 4
    commands = Commands(parties, tmp_path, protocol, ids, 1000)
    for _ in range(kills):
        commands.kill(victim, lives=2)
    commands.finish()
    assert commands.spent() == (ids, 1000)


class Spy:
    """What the parties post, by the type of message; `crash` raises instead of the n-th one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.posted: list[Any] = []
        post = Party.post

        def spy(party: Party, peer: Any, message: Any, *rest: Any, **more: Any) -> None:
            self.posted.append(message)
            post(party, peer, message, *rest, **more)

        monkeypatch.setattr(Party, "post", spy)

    def of(self, kind: type) -> list[Any]:
        return [each for each in self.posted if isinstance(each, kind)]


@pytest.mark.usefixtures("home")
def test_training_does_not_repeat_an_intersection_that_was_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    first = run(crashing(TinyHost(tmp_path), "split_dataset", 1), TinyCollaborator(tmp_path))
    assert isinstance(first[1], e.PeerLostError)
    assert len(spy.of(PsiBlinded)) == 1
    results = run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    assert not any(isinstance(each, BaseException) for each in results), results
    assert len(spy.of(PsiBlinded)) == 1
    begun = spy.of(PsiBegin)
    assert [each.done for each in begun] == [0, begun[0].count]


def psi_parties(folder: Path, **settings: Any) -> list[Any]:
    mine, theirs = [str(i) for i in range(90)], [str(i) for i in range(60, 140)]
    return [
        RSAPSIInitiatorScheduler(
            "asker", results_dir=folder, join_timeout=30, **({"ids": mine} | settings)
        ),
        RSAPSICollaboratorScheduler("answerer", ids=theirs, results_dir=folder, join_timeout=30),
    ]


COMMON = sorted(str(i) for i in range(60, 90))


@pytest.mark.usefixtures("home")
@PROTOCOLS
@pytest.mark.parametrize("victim", [0, 1])
def test_whoever_missed_the_result_finds_it_again(
    protocol: str, victim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the match, before it is written."""
    spy = Spy(monkeypatch)
    first = psi_parties(tmp_path, psi_protocol=protocol)
    dying_before_it_keeps(first[victim])
    outcomes = run(*first)
    if victim == 0:
        assert isinstance(outcomes[1], e.PeerLostError)
    assert run(*psi_parties(tmp_path, psi_protocol=protocol)) == [COMMON] * 2
    if victim == 0:
        assert [each.done for each in spy.of(PsiBegin)] == [0, 90]
    assert not [*tmp_path.glob("**/resume")]


@pytest.mark.usefixtures("home")
def test_killed_while_the_last_signatures_are_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has signed everything, but says no tags before the results are kept."""
    ids, spy = [str(number) for number in range(5000)], Spy(monkeypatch)
    unblind, calls = Requester.unblind, iter(range(1, 100))
    first = psi_parties(tmp_path, ids=ids, psi_protocol="ecdh")

    def dies(asking: Requester[Any], signed: bytes) -> None:
        if next(calls) == 5:
            deadline = time.monotonic() + 30
            while len(spy.of(PsiSigned)) < 5 and time.monotonic() < deadline:
                time.sleep(0.01)
            first[0]._heterofed.run.party.close(0)
            first[0]._heterofed.run.party.abort = lambda *_: None
            raise CrashError
        unblind(asking, signed)

    with monkeypatch.context() as patch:
        patch.setattr(Requester, "unblind", dies)
        outcomes = run(*first)
    assert isinstance(outcomes[0], CrashError)
    assert len(spy.of(PsiSigned)) == 5
    assert not spy.of(PsiTags)
    expected = sorted(str(number) for number in range(60, 140))
    assert run(*psi_parties(tmp_path, ids=ids, psi_protocol="ecdh")) == [expected] * 2
    assert [each.done for each in spy.of(PsiBegin)] == [0, 4096]


@pytest.mark.usefixtures("home")
def test_who_does_not_wish_to_go_on_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    first = psi_parties(tmp_path)
    dying_before_it_keeps(first[0])
    run(*first)
    parties = psi_parties(tmp_path)
    launch = parties[0].launch_task
    parties[0].launch_task = lambda task: launch(task, resume="never")
    assert run(*parties) == [COMMON] * 2
    assert [each.done for each in spy.of(PsiBegin)] == [0, 0]
    (answerer,) = [each for each in psi_parties(tmp_path) if each.feature_key == "answerer"]
    with pytest.raises(e.ResumeError, match="no unfinished run"):
        answerer.launch_task("tiny", resume="require")


@pytest.mark.usefixtures("home")
def test_other_ids_are_not_signed_once_the_tags_are_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = psi_parties(tmp_path)
    dying_before_it_keeps(first[0])
    run(*first)
    spy = Spy(monkeypatch)
    assert run(*psi_parties(tmp_path, ids=["7", "60"])) == [["60"]] * 2
    assert [each.kept for each in spy.of(PsiKey)] == [True, False]  # under another key
    assert len(spy.of(PsiRenew)) == 1


def test_no_key_is_left_of_an_intersection_that_was_in_vain(tmp_path: Path, home: Path) -> None:
    outcomes = run(*psi_parties(tmp_path, ids=["none", "of", "theirs"]))
    assert all(isinstance(each, e.EmptyIntersectionError) for each in outcomes), outcomes
    assert not [*home.glob("intersections/*.key")]


@pytest.mark.usefixtures("home")
def test_a_full_disk_is_told_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(psi.Resume, "append", full)
    at_asker, at_answerer = run(*psi_parties(tmp_path))
    assert type(at_asker) is e.CheckpointError
    assert "No space left on device; make room there" in str(at_asker)
    assert isinstance(at_answerer, e.CheckpointError)


@pytest.mark.usefixtures("home")
def test_nothing_is_signed_for_a_peer_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had asked for would be lost, and count against what may be signed again."""
    spy, sign, signed, gone = Spy(monkeypatch), Signer.sign, [], threading.Event()
    ids = [str(number) for number in range(CHUNKS_AHEAD * CHUNK_IDS)]
    asker, answerer = psi_parties(tmp_path, ids=ids, psi_protocol="ecdh")

    def first_waits(signing: Signer, chunk: bytes) -> bytes:
        signed.append(len(chunk))
        assert gone.wait(60)
        return sign(signing, chunk)

    def dies(*_: object) -> None:
        deadline = time.monotonic() + 60
        while len(spy.of(PsiBlinded)) < CHUNKS_AHEAD or not signed:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        asker._heterofed.run.party.close(1)  # what was said still arrives
        asker._heterofed.run.party.abort = lambda *_: None
        gone.set()
        raise CrashError

    monkeypatch.setattr(Signer, "sign", first_waits)
    monkeypatch.setattr(Request, "take_signed", dies)
    at_asker, at_answerer = run(asker, answerer)
    assert isinstance(at_asker, CrashError)
    assert isinstance(at_answerer, e.PeerLostError)
    assert len(signed) == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device", "/scratch"), "/scratch: No space left on device;"),
        (TimeoutError(110, "held for 30 s", "/b.lock"), "/b.lock: held for 30 s; correct that"),
    ],
)
def test_files_that_fail_are_named(
    error: OSError, says: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing is forgotten: started again, the parties go on."""

    def fails(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(psi.Budget, "spend", fails)
        at_asker, at_answerer = run(*psi_parties(tmp_path))
    assert type(at_answerer) is e.CheckpointError
    assert says in str(at_answerer)
    assert isinstance(at_asker, e.CheckpointError)
    assert [*home.glob("intersections/*.key")]
    assert run(*psi_parties(tmp_path)) == [COMMON] * 2
