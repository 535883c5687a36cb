"""Receipts: one chain at each party, which both sign, and which nobody can change afterwards."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from heterofed import errors as e
from heterofed.cli.task import new_task
from heterofed.homo_nn import HomoNNHostScheduler
from heterofed.identity.keys import load_key
from heterofed.identity.receipt.check import check_receipt, check_together
from heterofed.identity.receipt.lines import BEGINNING, Chain, encoded, hash_of
from heterofed.identity.receipt.statements import SAYS, Statement, read_signed
from heterofed.identity.signing import SigningKey, has_signed, make_signing_key, signing_path
from heterofed.identity.task_file import load_task
from heterofed.protocol.messages import Signed
from heterofed.runs.receipt import NAME, Receipt
from tests.e2e.processes import Parties, PartyProcess
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run
from tests.hetero_nn import sites_tiny
from tests.homo_nn import tiny as averaged
from tests.identity import stranger
from tests.identity.offices import Command, open_offices, public_key
from tests.runs.test_resume import CrashError, crashing

BOTH = ("alice", "bob")


def other(party: str) -> str:
    return BOTH[party == "alice"]


def offices(home: Path, rounds: int = 2, **settings: Any) -> dict[str, str]:
    """A task whose parties sign; gives their public keys."""
    plan = ["psi_protocol=ecdh", f"max_rounds={rounds}"]
    open_offices(home, signing=True, plan=plan, **settings)
    return {each: make_signing_key(each, home).public for each in BOTH}


def receipts(folder: Path) -> dict[str, bytes]:
    return {each: (folder / "tiny" / each / NAME).read_bytes() for each in BOTH}


def launched(folder: Path) -> dict[str, bytes]:
    """A run over TCP with keys; gives both receipts."""
    results = run(TinyHost(folder), TinyCollaborator(folder))
    assert not any(isinstance(each, BaseException) for each in results), results
    return receipts(folder)


def whats(content: bytes) -> list[str]:
    return [json.loads(line)["what"] for line in content.splitlines()]


def bodies(content: bytes, what: str) -> list[Any]:
    found = [json.loads(line) for line in content.splitlines()]
    return [each["body"] for each in found if each["what"] == what]


class Done:
    """A run whose parties signed."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.keys = offices(home)
        self.secrets = [
            *(signing_path(each, home).read_text().split('"')[-2] for each in BOTH),
            *(load_key(each, home).secret for each in BOTH),
        ]
        self.folder, self.content = folder, launched(folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    home = Path(tempfile.mkdtemp(prefix="hf", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFED_HOME", str(home))
        made = Done(home, tmp_path_factory.mktemp("signed"))
    yield made
    shutil.rmtree(home)


# -- an honest run ------------------------------------------------------------------------------


def test_both_sign_and_agree(done: Done) -> None:
    found = [check_receipt(done.content[each], done.keys) for each in BOTH]
    check_together(found)
    for each in found:
        assert (each.rounds, [*each.heard], each.missing) == (2, [other(each.party)], [])
        assert each.contradicted == {}
        assert stranger.accepts(done.content[each.party], each.party, done.keys)
    assert found[0].run == found[1].run
    assert whats(done.content["alice"]) == [
        *("began", "terms", "split", "round", "round", "ended", "said", "heard", "sealed")
    ]
    assert whats(done.content["bob"])[-3:] == ["heard", "said", "sealed"]


def test_the_command_says_what_is_proved(done: Done, command: Command) -> None:
    paths = [str(done.folder / "tiny" / each / NAME) for each in BOTH]
    assert command("receipt", "verify", *paths) == 0
    assert "PROVED: bob signed the same terms, rounds and messages" in command.out
    assert "NOT PROVED: that the keys are those of alice, bob" in command.out
    known = [f"--key={each}={done.keys[each]}" for each in BOTH]
    assert command("receipt", "verify", *paths, *known) == 0
    assert "that the keys are" not in command.out
    assert command("receipt", "verify", *paths, f"--key=bob={done.keys['alice']}") == 2
    assert "another signing key of bob" in command.err
    assert command("receipt", "verify", *paths, "--key=bob=x") == 2


def test_it_holds_no_id_and_no_secret(done: Done) -> None:
    for content in done.content.values():
        for hidden in (*IDS, *done.secrets):
            assert hidden.encode() not in content
        assert b'"seed"' not in content


def test_it_tells_what_was_agreed_and_done(done: Done) -> None:
    content = done.content["bob"]
    assert bodies(content, "terms")[0]["consent"].keys() == {"accepted", "started"}
    split, first = bodies(content, "split")[0], bodies(content, "round")[0]
    assert split["ids"] == {"own": 50, "common": 40}
    assert sum(split["rows"].values()) == 40
    assert first["spent"]["releases_per_row"] > 0
    assert {"party", "attack"} < set(first["leaks"][0])
    path = done.folder / "tiny" / "bob" / "feature_model.pt"
    models = {"feature_model": hash_of(path.read_bytes())}
    assert bodies(content, "ended")[0]["models"] == models


# -- changes ------------------------------------------------------------------------------------


def rechained(lines: list[Any]) -> bytes:
    """As somebody without the key can write them: each has the hash of the one before."""
    before, out = BEGINNING, b""
    for number, line in enumerate(lines):
        raw = encoded({**line, "prev": before, "n": number})
        before, out = hash_of(raw), out + raw + b"\n"
    return out


def fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from fields(value[key], (*path, key))
    else:
        yield path


def altered(value: Any, draw: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + draw.choice([-1, 1, 10**6])
    return (value[:-1] + chr(ord(value[-1]) ^ 1)) if value else "x"


def of_lines(lines: list[Any], draw: random.Random) -> Iterator[tuple[str, list[Any]]]:
    """Other lines: without one, with one twice, in another order, with swapped signatures."""
    at, to = draw.sample(range(len(lines)), 2)
    yield f"without line {at}", lines[:at] + lines[at + 1 :]
    yield f"line {at} twice", lines[: at + 1] + lines[at:]
    swapped = list(lines)
    swapped[at], swapped[to] = swapped[to], swapped[at]
    yield f"lines {at} and {to} swapped", swapped
    yield f"cut after line {at}", lines[:at]
    signed = [number for number, each in enumerate(lines) if "signature" in each["body"]]
    at, to = draw.sample(signed, 2)
    signature = {"signature": lines[to]["body"]["signature"]}
    whole = {**lines[at], "body": {**lines[at]["body"], **signature}}
    yield f"the signature of line {to} in {at}", [*lines[:at], whole, *lines[at + 1 :]]


def mutations(content: bytes, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Changed receipts, without end: every field in turn, and bytes and lines at random."""
    lines = [json.loads(each) for each in content.splitlines()]
    paths = list(fields(lines))
    draw.shuffle(paths)
    while True:
        for path in paths:
            copy = json.loads(json.dumps(lines))
            at = copy
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = altered(at[path[-1]], draw)
            yield f"field {path}", b"".join(encoded(each) + b"\n" for each in copy)
            yield f"field {path}, chained anew", rechained(copy)
            place = draw.randrange(len(content))
            flipped = bytes([content[place] ^ (1 << draw.randrange(8))])
            yield f"byte {place}", content[:place] + flipped + content[place + 1 :]
            yield f"without byte {place}", content[:place] + content[place + 1 :]
            yield f"one more byte at {place}", content[:place] + b" " + content[place:]
            yield f"cut at {place}", content[:place]
            for what, others in of_lines(lines, draw):
                yield what, rechained(others)


def assert_refused(content: bytes, party: str, keys: dict[str, str], count: int) -> None:
    made = mutations(content, random.Random(count))
    for _ in range(count):
        what, mutated = next(made)
        if mutated == content:
            continue  # a field that is chained anew, or the end cut off where nothing was
        with pytest.raises(e.ConfigError):
            check_receipt(mutated, keys)
            pytest.fail(f"accepted: {what}")
        assert not stranger.accepts(mutated, party, keys), what


@pytest.mark.parametrize("party", BOTH)
def test_changed_receipts_are_refused(party: str, done: Done) -> None:
    assert_refused(done.content[party], party, done.keys, 150)


@pytest.mark.long
@pytest.mark.parametrize("party", BOTH)
def test_a_thousand_changed_receipts_are_refused(party: str, done: Done) -> None:
    assert_refused(done.content[party], party, done.keys, 1000)


@pytest.mark.long
@pytest.mark.parametrize("party", BOTH)
def test_every_byte_counts(party: str, done: Done) -> None:
    content = done.content[party]
    for place in range(len(content)):
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        with pytest.raises(e.ConfigError):
            check_receipt(flipped, done.keys)


def test_another_key_is_refused(done: Done) -> None:
    forger = SigningKey("bob", bytes(32))
    lines = [json.loads(each) for each in done.content["bob"].splitlines()][:-1]
    whole = Chain(rechained(lines))
    whole.add(
        "sealed", signature=forger.sign(b"heterofed seal\0" + bytes.fromhex(whole.head)).hex()
    )
    with pytest.raises(e.ConfigError, match="the seal"):
        check_receipt(b"\n".join(whole.raw) + b"\n", done.keys)


def test_nonsense_is_refused() -> None:
    for content in (b"", b"\n", b"{}\n", b"[]\n", b"\xff\n", b"[" * 10_000 + b"\n", b'{"n":0}\n'):
        with pytest.raises(e.ConfigError):
            check_receipt(content)


# -- restarts -----------------------------------------------------------------------------------


def assert_one_chain(content: dict[str, bytes], keys: dict[str, str]) -> None:
    found = [check_receipt(content[each], keys) for each in BOTH]
    check_together(found)
    for each in found:
        assert (each.contradicted, each.missing) == ({}, [])
        assert stranger.accepts(content[each.party], each.party, keys)
        assert whats(content[each.party]).count("began") == 1
        assert each.resumed >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "at"),
    [("load_local_ids", 1), ("iterate_train_feature", 2)],
)
def test_a_run_that_was_interrupted_has_one_chain(
    hook: str, at: int, home: Path, tmp_path: Path
) -> None:
    keys = offices(home)
    run(TinyHost(tmp_path), crashing(TinyCollaborator(tmp_path), hook, at))
    with (tmp_path / "tiny" / "bob" / NAME).open("ab") as file:
        file.write(b'{"torn')  # as a kill in the middle of a line leaves it
    content = launched(tmp_path)
    assert_one_chain(content, keys)
    for party in BOTH:
        assert_refused(content[party], party, keys, 60)


@pytest.mark.long
@pytest.mark.parametrize("victim", BOTH)
def test_killed_with_kill_9(victim: str, home: Path, tmp_path: Path, parties: Parties) -> None:
    """One of two real processes is killed twice and started again, while the other one waits."""
    keys = offices(home, rounds=4)

    def start(party: str) -> PartyProcess:
        role = ("host", "patient") if party == "alice" else ("collaborator",)
        whole = ("-m", "tests.e2e.tiny", role[0], "tiny", str(tmp_path), *role[1:], "slow")
        return parties.start(*whole)

    running = {each: start(each) for each in BOTH}
    for number in (1, 3):
        wait_for(tmp_path / "tiny" / victim / "resume" / f"round-{number}")
        running[victim].kill()
        assert running[victim].wait() == -9
        running[victim] = start(victim)
    for each in running.values():
        assert each.wait() == 0, "\n".join(each.output for each in running.values())
    assert_one_chain(receipts(tmp_path), keys)
    assert whats(receipts(tmp_path)[victim]).count("resumed") == 2
    for party, content in receipts(tmp_path).items():
        assert_refused(content, party, keys, 1000)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 100
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


@pytest.mark.slow
def test_a_resumed_run_needs_its_receipt(home: Path, tmp_path: Path) -> None:
    offices(home)
    run(TinyHost(tmp_path), crashing(TinyCollaborator(tmp_path), "iterate_train_feature", 2))
    (tmp_path / "tiny" / "bob" / NAME).unlink()
    outcomes = run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    assert type(outcomes[1]) is e.ResumeError
    assert "is gone; bring it back" in str(outcomes[1])


def test_what_a_limit_has_stopped_is_sealed(home: Path, tmp_path: Path) -> None:
    keys = offices(home, limits=["max_rounds=1"])
    outcomes = run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    assert any(isinstance(each, e.LeakLimitError) for each in outcomes)
    found = check_receipt(receipts(tmp_path)["alice"], keys)
    assert (found.stopped, found.rounds, found.missing) == ("LeakLimitError", None, ["bob"])


# -- who lies -----------------------------------------------------------------------------------


def liar(monkeypatch: pytest.MonkeyPatch, party: str, name: str, replacement: Any) -> None:
    """Replace a method of the receipt at one party."""
    honest = getattr(Receipt, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._run.party.name == party:
            return replacement(self, honest, *args, **kwargs)
        return honest(self, *args, **kwargs)

    monkeypatch.setattr(Receipt, name, method)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("party", "field"),
    [("alice", {"link": "1" * 64}), ("alice", {"rounds": 9}), ("bob", {"plan": "2" * 64})],
)
def test_another_statement_of_the_run_shows(
    party: str,
    field: Any,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
) -> None:
    keys = offices(home)
    liar(
        monkeypatch,
        party,
        "_statement",
        lambda self, honest, *args: msgspec.structs.replace(honest(self, *args), **field),
    )
    content = launched(tmp_path)
    found = check_receipt(content[other(party)], keys)
    assert found.contradicted == {party: [*field]}
    assert not stranger.accepts(content[other(party)], other(party), keys)
    assert command("receipt", "verify", str(tmp_path / "tiny" / other(party) / NAME)) == 2
    assert f"CONTRADICTED: {party} signed something else about {next(iter(field))}" in command.out


NOT_SIGNED: dict[str, Any] = {
    "nothing": lambda _said: None,
    "by another key": lambda said: Signed(
        said.text, SigningKey("alice", bytes(32)).sign(SAYS + said.text)
    ),
    "no statement": lambda said: Signed(b"\xff" * 2048, said.signature),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("party", "how"), [("bob", "nothing"), ("alice", "by another key"), ("bob", "no statement")]
)
def test_who_does_not_sign_is_named_and_stops_nobody(
    party: str, how: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = offices(home)

    def say(self: Any, honest: Any, peer: str) -> Signed | None:
        replaced: Signed | None = NOT_SIGNED[how](honest(self, peer))
        return replaced

    liar(monkeypatch, party, "say", say)
    content = launched(tmp_path)[other(party)]
    found = check_receipt(content, keys)
    assert (found.rounds, found.heard, found.missing) == (2, {}, [party])
    assert bodies(content, "unheard")[0]["peer"] == party


@pytest.mark.slow
def test_who_leaves_without_a_signature_stops_nobody(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = offices(home)

    def leaves(self: Any, _honest: Any, *_: Any) -> None:
        self._run.party.close(0)
        raise KeyboardInterrupt

    liar(monkeypatch, "bob", "say", leaves)
    mine, _ = run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    assert not isinstance(mine, BaseException), mine
    found = check_receipt(receipts(tmp_path)["alice"], keys)
    assert (found.rounds, found.missing) == (2, ["bob"])


def test_a_second_receipt_of_a_party_is_found_by_the_other_one(done: Done) -> None:
    """Bob writes and seals another history: alice holds what he stated of the first one."""
    alice, bob = (check_receipt(done.content[each], done.keys) for each in BOTH)
    bob.said["alice"] = [msgspec.structs.replace(bob.said["alice"][0], head="3" * 64)]
    with pytest.raises(e.ConfigError, match="bob has written more than one"):
        check_together([alice, bob])


# -- keys and parts -----------------------------------------------------------------------------


@pytest.mark.slow
def test_without_signing_keys_there_is_no_receipt(home: Path, tmp_path: Path) -> None:
    open_offices(home, plan=["psi_protocol=ecdh", "max_rounds=2"])
    results = run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    assert not any(isinstance(each, BaseException) for each in results), results
    assert not list(tmp_path.rglob(NAME))


def test_a_signing_key_is_made_once_and_is_private(home: Path, command: Command) -> None:
    assert command("keys", "signing", "alice") == 0
    first = command.out.strip()
    assert command("keys", "signing", "alice") == 0
    assert command.out.strip() == first
    assert len(first) == 64
    assert signing_path("alice", home).stat().st_mode & 0o077 == 0
    signing_path("alice", home).chmod(0o644)
    assert command("keys", "signing", "alice") == 2
    assert "chmod 600" in command.err


def test_a_task_that_lists_another_signing_key_is_refused(home: Path, tmp_path: Path) -> None:
    offices(home)
    signing_path("alice", home).unlink()
    with pytest.raises(e.ConfigError, match="has no signing key on this machine"):
        TinyHost(tmp_path).launch_task("tiny")
    make_signing_key("alice", home)
    with pytest.raises(e.ConfigError, match="the signing key of alice on this machine is not"):
        TinyHost(tmp_path).launch_task("tiny")


@pytest.mark.parametrize("given", ["bob=1234", "carol=" + "0" * 64, "bob"])
def test_wrong_signing_keys_are_named(given: str, home: Path) -> None:
    bob = public_key("bob", home)
    public_key("alice", home)
    with pytest.raises(e.ConfigError, match="--signing"):
        new_task(
            "tiny",
            host="alice",
            address="tcp://127.0.0.1:7300",
            collaborators=[f"bob={bob}"],
            signing=[given],
        )
    assert not (home / "tasks").exists()


def test_either_all_sign_or_none(home: Path) -> None:
    offices(home)
    path = home / "tasks" / "tiny.toml"
    text = path.read_text()
    path.write_text(text[: text.rindex("signing =")] + text[text.index("[plan]") - 1 :])
    with pytest.raises(e.ConfigError, match="bob has none"):
        load_task(path)


def test_a_statement_has_one_form() -> None:
    some = Statement(
        task="t",
        run="0" * 32,
        party="a",
        peer="b",
        terms=BEGINNING,
        plan=BEGINNING,
        rounds=1,
        link=BEGINNING,
        lines=1,
        head=BEGINNING,
    )
    key = SigningKey("a", bytes(32))

    def signed(text: bytes) -> Signed:
        return Signed(text, key.sign(SAYS + text))

    assert read_signed(some.signed_by(key), key.public) == some
    for text in (some.text.replace(b",", b", ", 1), b"{}", b"[" * 1000, b"\xff", b"x" * 3000):
        assert read_signed(signed(text), key.public) is None
    assert not has_signed(key.public, some.text, key.sign(SAYS + some.text))
    assert not has_signed("no key", b"", b"")


# -- every kind of task ---------------------------------------------------------------------------


def signed_by(results: Path, *parties: str, task: str = "tiny") -> dict[str, bytes]:
    return {each: (results / task / each / NAME).read_bytes() for each in parties}


def assert_agreed(content: dict[str, bytes], keys: dict[str, str]) -> list[Any]:
    """All parties have sealed their receipts, and the Host, which is the first one, agrees with
    each Collaborator. Two Collaborators say nothing to each other.
    """
    found = [check_receipt(each, keys) for each in content.values()]
    check_together(found)
    host, *others = content
    for each in found:
        assert each.contradicted == {}
        assert {*each.heard} == ({*others} if each.party == host else {host})
        assert stranger.accepts(content[each.party], each.party, keys)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("late_readers")
@pytest.mark.parametrize("secure", [False, True])
def test_parties_of_a_horizontal_task_sign(secure: bool, home: Path, tmp_path: Path) -> None:
    names = ["bob", "carol"]
    fusion = "masked_sum" if secure else "separate"
    plan = ["max_rounds=3", f"fusion={fusion}", "averaging={}", f"max_batch_bytes={1 << 30}"]
    open_offices(home, names, signing=True, plan=plan)
    keys = {each: make_signing_key(each, home).public for each in ("alice", *names)}

    def parties() -> list[Any]:
        others = [averaged.Party(tmp_path, name, number) for number, name in enumerate(names)]
        common: Any = {"results_dir": tmp_path, "join_timeout": 60, "seed": 1}
        first = HomoNNHostScheduler(
            "alice", max_rounds=3, collaborators=names, secure_aggregation=secure, **common
        )
        return [first, *others]

    first = parties()
    crashing(first[1], "train_a_round", 2)
    assert isinstance(run(*first)[1], CrashError)
    results = run(*parties())
    assert not any(isinstance(each, BaseException) for each in results), results
    content = signed_by(tmp_path, "alice", *names)
    for each in assert_agreed(content, keys):
        assert (each.rounds, each.resumed) == (3, 1)
        assert_refused(content[each.party], each.party, keys, 40)


@pytest.mark.slow
def test_sites_of_a_role_sign(home: Path, tmp_path: Path) -> None:
    sites = [f"shop.{each}" for each in ("north", "south")]
    roles = json.dumps([{"role": "shop", "parties": sites}])
    plan = ["psi_protocol=ecdh", f"max_rounds={sites_tiny.ROUNDS}", "announced_split=true"]
    plan += [f"batch_size={sites_tiny.BATCH}", f"sites={roles}"]
    open_offices(home, ["lab", *sites], host="bank", task="sites", signing=True, plan=plan)
    keys = {each: make_signing_key(each, home).public for each in ("bank", "lab", *sites)}
    bank, others = sites_tiny.parties(tmp_path, ("north", "south"))
    results = run(bank, *others, task="sites")
    assert not any(isinstance(each, BaseException) for each in results), results
    content = signed_by(tmp_path, *keys, task="sites")
    for each in assert_agreed(content, keys):
        assert each.rounds == sites_tiny.ROUNDS
        assert_refused(content[each.party], each.party, keys, 40)
