"""Task files: written, read back, compared, accepted; what is wrong in one is named."""

from __future__ import annotations

import json
import socket
import tomllib
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterofed.cli.own_party import name_in
from heterofed.cli.task import accept_task
from heterofed.errors import ConfigError
from heterofed.identity import consent
from heterofed.identity.keys import load_key, new_key
from heterofed.identity.task_file import check_task, known_tasks, load_task, render, task_path
from heterofed.identity.task_terms import (
    NOT_AGREED,
    agreed_fields,
    differences,
    settle,
    shown_plan,
    shown_terms,
    terms_digest,
)
from heterofed.protocol.leak_limits import LeakLimits
from heterofed.protocol.plan import Plan, RoleSites
from heterofed.rendezvous.backend import TaskPlace
from heterofed.transport.zeromq.zap import new_key_pair
from tests.identity.offices import Command, free_port, open_offices
from tests.identity.test_keys import tree


def read(text: str, where: Path) -> Any:
    where.write_text(text)
    return load_task(where)


def test_a_new_file_reads_back_and_holds_nothing_secret(home: Path) -> None:
    path = open_offices(
        home,
        ["bob", "carol"],
        plan=["max_rounds=5", "psi_protocol=ecdh", "shuffle=true"],
        expires=date(2999, 1, 2),
        bind="tcp://*:7300",
    )
    task = load_task(path)
    plan = task.make_plan()
    assert (plan.max_rounds, plan.psi_protocol, plan.shuffle) == (5, "ecdh", True)
    assert plan.collaborators == ("bob", "carol")
    assert task.listens_at == "tcp://*:7300"
    assert msgspec.convert(msgspec.toml.decode(render(task)), type(task)).terms() == task.terms()
    for party in ("alice", "bob", "carol"):
        assert load_key(party, home).secret not in path.read_text()
    assert known_tasks(home) == ["tiny"]


names = st.from_regex(r"\A\w(?:[\w.\- ]{0,20}\w)?\Z")


@pytest.mark.slow
@given(st.lists(names, min_size=2, max_size=5, unique=True), st.data())
def test_every_file_survives_being_written(parties: list[str], data: st.DataObject) -> None:
    keys = [new_key_pair()[0] for _ in parties]
    members = [
        {"party": party, "key": key}
        | ({"expires": data.draw(st.dates())} if data.draw(st.booleans()) else {})
        for party, key in zip(parties, keys, strict=True)
    ]
    task = check_task(
        {
            "task": data.draw(names),
            "address": "tcp://[::1]:7300",
            "host": members[0],
            "collaborators": members[1:],
            "plan": {"max_rounds": data.draw(st.integers(0, 99))},
            "revoked": [new_key_pair()[0]],
        },
        "here",
    )
    again = check_task(msgspec.toml.decode(render(task)), "there")
    assert again.terms() == task.terms()
    assert again.revoked == task.revoked
    assert differences(shown_terms(task.terms()), shown_terms(again.terms())) == []


def test_terms_cover_what_is_agreed_and_nothing_else(home: Path, tmp_path: Path) -> None:
    path = open_offices(home)
    text, task = path.read_text(), load_task(path)
    key, other = load_key("bob", home).public, new_key_pair()[0]
    same = [
        text.replace(task.address, "tcp://elsewhere.example:1"),
        text.replace("revoked = []", f'revoked = ["{other}"]'),
        text.replace("[host]", 'bind = "tcp://*:99"\n\n[host]'),
        "\n\n# a note\n" + text.replace(" = ", "="),
        text.replace("shuffle = false\n", ""),  # its default
    ]
    for each in same:
        assert each != text
        assert read(each, tmp_path / "f").terms() == task.terms()
    different = {
        "max_rounds: 0 here, 9 there": text.replace("max_rounds = 0", "max_rounds = 9"),
        "shuffle: false here, true there": text.replace("shuffle = false", "shuffle = true"),
        "expires: never here, 2999-01-01 there": "expires = 2999-01-01\n" + text,
        "purpose: train here, psi there": text.replace('"train"', '"psi"'),
        "key of bob: ": text.replace(key, other),
        "last day of bob: not set here, 2999-01-01 there": text.replace(
            f'key = "{key}"', f'key = "{key}"\nexpires = 2999-01-01'
        ),
    }
    for said, each in different.items():
        there = read(each, tmp_path / "f").terms()
        (found,) = differences(shown_terms(task.terms()), shown_terms(there))
        assert found.startswith(said)


def test_every_field_of_the_plan_is_a_term_or_known_not_to_be() -> None:
    assert set(Plan.__struct_fields__) >= NOT_AGREED
    limits = LeakLimits(min_batch=2)  # left out where there are none
    sites = (RoleSites("r", ("b", "c")),)  # as these
    named: dict[str, Any] = {"host": "a", "collaborators": ("b", "c"), "take_home": True}
    fields = agreed_fields(Plan(**named, limits=limits, sites=sites, recording=True))
    assert set(fields) == set(Plan.__struct_fields__) - NOT_AGREED


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("address", "adress", "unknown field 'adress' in the file; did you mean 'address'?"),
        ("max_rounds", "max_round", "unknown field 'max_round' in [plan]; did you mean 'max_round"),
        ("[plan]", "[plan]\nseed = 3", "unknown field 'seed' in [plan]; there are: "),
        ("[[collaborators]]", "[[colaborators]]", "did you mean 'collaborators'?"),
        ("[[collaborators]]\nparty", "[[collaborators]]\nname", "unknown field 'name' in [["),
        ("[host]", "[host]\ncolour = 1", "unknown field 'colour' in [host]; there are: party"),
        ("format = 1", "format = 2", "$.format"),
        ('"train"', '"play"', "$.purpose"),
        ('"tcp://', '"udp://', "is not an address such as"),
        ("max_rounds = 0", "max_rounds = -1", "$.max_rounds"),
        ("max_rounds = 0", 'max_rounds = "many"', "$.max_rounds"),
        ('party = "bob"', 'party = "../bob"', "$.collaborators[0].party"),
        ('party = "bob"', 'party = "alice"', "two parties have the same party"),
        ("[plan]", "[plan", "is not valid TOML"),
        ('key = "', 'key = "short', "$."),
    ],
)
def test_what_is_wrong_is_named(
    old: str, new: str, says: str, home: Path, command: Command
) -> None:
    path = open_offices(home)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    before = tree(home)
    for verb in ("show", "check", "accept"):
        assert command("task", verb, "tiny") == 2
        assert says in command.err
        assert len(command.err.splitlines()) == 1
    assert command("task", "list") == 0
    assert says in command.out
    assert tree(home) == before


def test_keys_that_are_none(home: Path, tmp_path: Path) -> None:
    path = open_offices(home)
    text, key = path.read_text(), load_key("bob", home).public
    for bad in ("~" * 40, key[:-1] + '\\"', " " * 40, "é" * 40):
        with pytest.raises(ConfigError):
            read(text.replace(key, bad), tmp_path / "f")
    with pytest.raises(ConfigError, match="bob has no key"):
        read(text.replace(f'key = "{key}"', ""), tmp_path / "f")
    with pytest.raises(ConfigError, match="the same key"):
        read(text.replace(key, load_key("alice", home).public), tmp_path / "f")


@pytest.mark.parametrize(
    "address",
    ["", "bank", "tcp://bank", "tcp://*:1", "tcp://bank:0", "tcp://bank:65536", "tcp://a b:1",
     "ipc:///tmp/x", "tcp://bank:1 ", "tcp://[::1:1", "tcp://bank:\u0661", "tcp://u@bank:1"],
)  # fmt: skip
def test_addresses_that_are_none(address: str, home: Path, tmp_path: Path) -> None:
    path = open_offices(home, address="tcp://bank.example:7300")
    with pytest.raises(ConfigError, match="is not an address such as"):
        read(path.read_text().replace("tcp://bank.example:7300", address), tmp_path / "f")


@pytest.mark.parametrize(
    ("address", "listens"),
    [
        ("tcp://bank.example:7300", "tcp://*:7300"),
        ("tcp://10.0.0.7:7300", "tcp://10.0.0.7:7300"),
        ("tcp://[::1]:7300", "tcp://[::1]:7300"),
    ],
)
def test_where_a_host_listens(address: str, listens: str, home: Path) -> None:
    assert load_task(open_offices(home, address=address)).listens_at == listens


# -- limits --------------------------------------------------------------------------------------


def test_limits_are_terms(home: Path, command: Command) -> None:
    given = ["max_label_auc=0.65", "min_intersection=1000", "raise_defence=true"]
    path = open_offices(home, limits=given)
    task = load_task(path)
    assert task.make_plan().limits == LeakLimits(
        max_label_auc=0.65, min_intersection=1000, raise_defence=True
    )
    assert render(task) == path.read_text()
    assert command("task", "show", "tiny") == 0
    assert "limit max_label_auc" in command.out
    other = msgspec.structs.replace(task, limits={"max_label_auc": 0.7})
    assert differences(shown_terms(task.terms()), shown_terms(other.terms())) == [
        "limit max_label_auc: 0.65 here, 0.7 there",
        "limit min_intersection: 1000 here, not set there",
        "limit raise_defence: true here, not set there",
    ]
    with pytest.raises(ConfigError, match="the settings differ"):
        settle(other.make_plan(), task)
    with pytest.raises(ConfigError, match="did you mean 'max_label_auc'"):
        check_task({**tomllib.loads(path.read_text()), "limits": {"max_label_au": 0.6}}, "a")


def test_terms_without_limits_are_as_before(home: Path) -> None:
    assert b"limits" not in load_task(open_offices(home)).terms()


# -- heterofed task new --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--plan", "max_round=5"], "did you mean 'max_rounds'?"),
        (["--plan", "max_rounds"], "give FIELD=VALUE"),
        (["--plan", "max_rounds=many"], "give another value"),
        (["--plan", "seed=5"], "with a field of the plan"),
        (["--plan", "limits={}"], "with a field of the plan"),
        (["--limit", "max_auc=0.6"], "with a limit"),
        (["--limit", "max_label_auc=0.4"], "give another value"),
        (["--limit", "max_label_auc=nan"], "give another value"),
        (["--collaborator", "carol"], "give PARTY=PUBKEY"),
        (["--collaborator", "carol=short"], "in single quotes"),
        (["--collaborator", "../carol=" + "x" * 40], "--collaborator"),
        (["--bind", "nowhere"], "is not an address"),
        (["--address", "nowhere"], "is not an address"),
        (["--host", "dora"], "heterofed keys new dora"),
        (["--host", "a/b"], "--host"),
        (["--insecure"], "give PARTY alone"),
        (["--expires", "tomorrow"], "does not match the format"),
    ],
)
def test_new_refuses_and_writes_nothing(
    arguments: list[str], says: str, home: Path, command: Command
) -> None:
    new_key("alice", home)
    bob = new_key_pair()[0]
    before = tree(home)
    given = ["--host", "alice", "--address", "tcp://a:1", "--collaborator", f"bob={bob}"]
    assert command("task", "new", "tiny", *given, *arguments) == 2
    assert says in command.err
    assert "Traceback" not in command.err
    assert tree(home) == before


def test_new_never_replaces_a_file(home: Path, command: Command) -> None:
    path = open_offices(home)
    before = tree(home)
    given = ["--host", "alice", "--address", "tcp://a:1", "--collaborator", "bob=x"]
    assert command("task", "new", "tiny", *given) == 2
    assert "there is a file of task 'tiny' already" in command.err
    assert tree(home) == before
    assert path.exists()


@pytest.mark.parametrize("name", ["a/b/..", "../t", "nul\0", "tiny\n", ""])
def test_task_ids_with_path_characters(name: str, home: Path, command: Command) -> None:
    new_key("alice", home)
    before = tree(home)
    given = ["--host", "alice", "--address", "tcp://a:1", "--collaborator", "bob=x"]
    assert command("task", "new", *given, "--", name) == 2
    for verb in ("show", "check", "accept"):
        assert command("task", verb, "--", name) == 2
        assert len(command.err.splitlines()) == 1
    assert tree(home) == before


def test_unknown_tasks(home: Path, command: Command) -> None:
    open_offices(home)
    for verb in ("show", "check", "accept"):
        assert command("task", verb, "tinny") == 2
        assert "there is no file of task 'tinny'" in command.err
        assert "did you mean 'tiny'?" in command.err
    assert command("task", "show", "elsewhere/tiny.toml") == 2
    assert "cannot be read" in command.err


def test_show_and_list(home: Path, command: Command) -> None:
    open_offices(home, plan=["max_rounds=7"])
    assert command("task", "list") == 0
    assert command.out.split("\t")[:3] == ["tiny", "train", "alice"]
    assert command("task", "show", "tiny") == 0
    shown = dict(line.split(maxsplit=1) for line in command.out.splitlines() if " of " not in line)
    assert shown["max_rounds"] == "7"
    assert load_key("bob", home).fingerprint in command.out


# -- consent ---------------------------------------------------------------------------------------


def audit(home: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (home / "audit.log").read_text().splitlines()]


def test_accept_asks_records_and_holds_for_these_terms_only(home: Path, command: Command) -> None:
    path = open_offices(home, accept=False)
    digest = terms_digest(load_task(path).terms())
    assert command("task", "accept", "tiny") == 2  # several of its keys are here
    assert "say it with --party" in command.err
    assert command("task", "accept", "tiny", "--party", "bob") == 2
    assert "pass --yes" in command.err
    assert not consent.has_accepted(home, "tiny", "bob", digest)
    assert command("task", "accept", "tiny", "--party", "bob", "--yes") == 0
    for field in ("max_rounds", "psi_protocol", "max_peer_ids", "collaborators", "key of alice"):
        assert field in command.out
    assert consent.has_accepted(home, "tiny", "bob", digest)
    assert not consent.has_accepted(home, "tiny", "carol", digest)
    path.write_text(path.read_text().replace("max_rounds = 0", "max_rounds = 1000"))
    changed = terms_digest(load_task(path).terms())
    assert not consent.has_accepted(home, "tiny", "bob", changed)
    with pytest.raises(ConfigError, match="did not accept"):
        accept_task("tiny", "bob", lambda _terms, _party: False)
    assert [(each["event"], each["terms"]) for each in audit(home)] == [
        ("accepted", digest),
        ("refused", changed),
    ]
    assert not consent.has_accepted(home, "tiny", "bob", digest)


def test_accept_puts_a_file_in_place_and_keeps_revocations(
    home: Path, tmp_path: Path, command: Command
) -> None:
    path = open_offices(home)
    sent = tmp_path / "from-the-bank.toml"
    other = new_key_pair()[0]
    sent.write_text(path.read_text().replace("max_rounds = 0", "max_rounds = 3"))
    path.write_text(path.read_text().replace("revoked = []", f'revoked = ["{other}"]'))
    assert command("task", "accept", str(sent), "--party", "bob", "--yes") == 0
    kept = load_task(task_path("tiny", home))
    assert kept.make_plan().max_rounds == 3
    assert kept.revoked == (other,)


def test_the_host_and_strangers_accept_nothing(home: Path, command: Command) -> None:
    open_offices(home, accept=False)
    assert command("task", "accept", "tiny", "--party", "alice", "--yes") == 2
    assert command("task", "accept", "tiny", "--party", "eve", "--yes") == 2
    assert "no party 'eve'" in command.err
    assert not (home / "audit.log").exists()


def test_expired_and_revoked(home: Path, command: Command) -> None:
    path = open_offices(home)
    text = path.read_text()
    bob = load_key("bob", home).public
    yesterday = date.today() - timedelta(days=2)
    for change, says in (
        (f"expires = {yesterday}\n{text}", "task 'tiny' expired on"),
        (
            text.replace(f'key = "{bob}"', f'key = "{bob}"\nexpires = {yesterday}'),
            "the key of bob expired on",
        ),
        (text.replace("revoked = []", f'revoked = ["{bob}"]'), "the key of bob is revoked"),
    ):
        path.write_text(change)
        before = tree(home)
        for party in ("alice", "bob"):
            assert command("task", "check", "tiny", "--party", party) == 2
            assert says in command.err
        assert command("task", "accept", "tiny", "--party", "bob", "--yes") == 2
        assert tree(home) == before
    today = date.today() + timedelta(days=1)
    path.write_text(text.replace(f'key = "{bob}"', f'key = "{bob}"\nexpires = {today}'))
    load_task(path).check_usable()


# -- settings and terms ---------------------------------------------------------------------------


def plan(**settings: Any) -> Plan:
    return Plan(host="alice", collaborators=("bob",), seed=7, calculation_timeout=9.0, **settings)


def test_settings_at_their_default_take_the_files_word(home: Path) -> None:
    task = load_task(open_offices(home, plan=["max_rounds=5", "psi_protocol=ecdh"]))
    settled = settle(plan(max_rounds=5), task)
    assert (settled.psi_protocol, settled.max_rounds) == ("ecdh", 5)
    assert (settled.seed, settled.calculation_timeout) == (7, 9.0)


def test_settings_that_differ_are_named_field_by_field(home: Path) -> None:
    task = load_task(open_offices(home, plan=["max_rounds=5", "psi_bits=3072"]))
    with pytest.raises(ConfigError) as caught:
        settle(plan(max_rounds=4, psi_bits=4096, shuffle=True), task)
    for said in (
        "max_rounds is 4 in the constructor and 5 in the file",
        "psi_bits is 4096 in the constructor and 3072 in the file",
        "shuffle is true in the constructor and false in the file",
    ):
        assert said in str(caught.value)


def test_a_prediction_takes_the_terms_of_training_from_the_file(home: Path) -> None:
    task = load_task(open_offices(home, plan=["max_rounds=5", "psi_bits=3072"]))
    assert settle(plan(max_rounds=4, shuffle=True), task, trains=False).max_rounds == 5
    with pytest.raises(ConfigError, match="psi_bits"):
        settle(plan(psi_bits=4096), task, trains=False)


def test_what_the_file_leaves_at_0_is_the_hosts_to_decide(home: Path) -> None:
    task = load_task(open_offices(home, plan=["psi_bits=3072"]))
    settled = settle(plan(max_rounds=4, batch_size=32), task)
    assert (settled.max_rounds, settled.batch_size, settled.psi_bits) == (4, 32, 3072)
    place = TaskPlace(task, "bob", home)
    assert place.differences(settled) == []
    other = msgspec.structs.replace(settled, shuffle=True)
    assert place.differences(other) == ["shuffle: false here, true there"]
    set_by_file = load_task(open_offices(home, task="set", plan=["batch_size=64"]))
    with pytest.raises(ConfigError, match="batch_size is 32 in the constructor and 64 in the file"):
        settle(plan(batch_size=32), set_by_file)


@pytest.mark.parametrize("is_host", [True, False])
def test_a_party_finds_its_name_in_the_file(home: Path, is_host: bool) -> None:
    assert name_in("tiny", None, "host", is_host=is_host) == "host"  # there is no file yet
    open_offices(home)
    assert name_in("tiny", None, "host", is_host=is_host) == ("alice" if is_host else "bob")
    assert name_in("tiny", "carol", "host", is_host=is_host) == "carol"


def test_several_parties_on_one_machine_are_asked_for_a_name(home: Path) -> None:
    open_offices(home, collaborators=("bob", "carol"))
    with pytest.raises(ConfigError, match=r"several here \(bob, carol\); say it with --party"):
        name_in("tiny", None, "collaborator", is_host=False)
    assert name_in("tiny", None, "host", is_host=True) == "alice"
    with pytest.raises(ConfigError, match="task id"):
        name_in("../tiny", None, "host", is_host=True)


def test_what_is_not_set_has_one_word() -> None:
    shown = shown_plan(Plan(host="alice", collaborators=("bob",)))
    assert shown["loss_reduction"] == shown["compress_features"] == "none"
    assert "None" not in shown.values()


@given(st.binary(max_size=400))
def test_terms_that_are_none_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not the terms"):
        shown_terms(content)


# -- heterofed task check --------------------------------------------------------------------------


def test_check_as_host_listens_and_lets_go(home: Path, command: Command) -> None:
    path = open_offices(home)
    address = load_task(path).address
    for _ in range(2):
        assert command("task", "check", "tiny", "--party", "alice") == 0
        assert f"the Host can listen at {address}" in command.out


def test_check_when_nobody_answers(home: Path, command: Command) -> None:
    open_offices(home)
    assert command("task", "check", "tiny", "--party", "bob", "--wait", "0.5") == 1
    assert "nobody answers at tcp://127.0.0.1" in command.err
    assert "bob has accepted these terms" in command.out


def test_check_when_the_address_is_taken_or_not_ours(home: Path, command: Command) -> None:
    port = free_port()
    open_offices(home, address=f"tcp://127.0.0.1:{port}")
    with socket.create_server(("127.0.0.1", port)):
        assert command("task", "check", "tiny", "--party", "alice") == 2
        assert "in use" in command.err
        assert "stop what listens there" in command.err
    path = task_path("tiny", home)
    path.write_text(path.read_text().replace("127.0.0.1", "192.0.2.1"))
    assert command("task", "check", "tiny", "--party", "alice") == 2
    assert "set `bind` in the task file" in command.err


def test_rotated_keys_do_not_pass_for_the_listed_ones(home: Path, command: Command) -> None:
    open_offices(home)
    command("keys", "rotate", "bob")
    for arguments in (("check",), ("accept", "--yes")):
        assert command("task", arguments[0], "tiny", "--party", "bob", *arguments[1:]) == 2
        assert "is not the one that the file of task 'tiny' lists" in command.err


@pytest.mark.parametrize(
    ("others", "plan", "keyless", "expected"),
    [
        (("bob", "carol"), ["psi_protocol=ecdh"], False, "joint"),
        (("bob", "carol"), ["psi_protocol=ecdh", "psi_parties=pairwise"], False, "pairwise"),
        (("bob", "carol"), [], False, "pairwise"),
        (("bob",), ["psi_protocol=ecdh"], False, "pairwise"),
        (("bob", "carol"), ["psi_protocol=ecdh"], True, "pairwise"),
    ],
)
def test_new_tasks_hide_pairwise_intersections_where_they_can(
    others: tuple[str, ...], plan: list[str], keyless: bool, expected: str, home: Path
) -> None:
    task = load_task(open_offices(home, others, plan=plan, keyless=keyless, accept=False))
    assert task.make_plan().psi_parties == expected
