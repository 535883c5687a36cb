"""`heterofed task`: makes, checks and accepts task files.

This module knows files, keys and the network of one check; it prints nothing.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from heterofed.cli.own_party import own_party
from heterofed.cli.visit import visit
from heterofed.errors import ConfigError, JoinTimeoutError
from heterofed.files import heterofed_home, private_folder
from heterofed.identity import consent
from heterofed.identity.keys import load_key
from heterofed.identity.signing import make_signing_key
from heterofed.identity.task_file import check_task, known_tasks, load_task, render, task_path
from heterofed.identity.task_terms import (
    KEY_CHARACTERS,
    LIMITS,
    NOT_AGREED,
    Purpose,
    TaskFile,
    differences,
    shown_terms,
    terms_digest,
)
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer, Timeouts
from heterofed.protocol.leak_limits import LeakLimits
from heterofed.protocol.messages import Terms
from heterofed.protocol.plan import Plan
from heterofed.protocol.states import Role
from heterofed.rendezvous.admission import Admission
from heterofed.rendezvous.agreement import task_digest
from heterofed.rendezvous.backend import TaskPlace
from heterofed.rendezvous.refused_keys import stranger
from heterofed.reporting.results import check_name, write_whole

OF_TABLES = ("shuffle=true", "psi_protocol=ecdh")
"""The terms of a task in which `heterofed table train` is used with its default options."""


def new_task(
    task: str,
    *,
    host: str,
    address: str,
    collaborators: Sequence[str],
    bind: str | None = None,
    purpose: Purpose = "train",
    expires: date | None = None,
    plan: Sequence[str] = (),
    limits: Sequence[str] = (),
    keyless: bool = False,
    signing: Sequence[str] = (),
) -> Path:
    """Write the file of a new task and return its path.

    Args:
        task: the id of the task.
        host: the feature key of the Host, whose key pair must be on this machine.
        address: the address at which Collaborators reach the Host.
        collaborators: the Collaborators, each as `PARTY=PUBKEY`, or `PARTY` in a task without keys.
        bind: the address at which the Host listens, if it differs.
        purpose: "train" or "psi".
        expires: the last day on which the task may run.
        plan: the fields of `Plan` to set, each as `FIELD=VALUE`; `_plan` adds to them.
        limits: the fields of `LeakLimits` to set, in the same form.
        keyless: whether the task has no keys.
        signing: the signing keys of all Collaborators, each as `PARTY=KEY`, if the parties sign
            receipts. The Host's is made if this machine has none.

    Raises:
        ConfigError: an argument is wrong; nothing was written.
    """
    home = heterofed_home()
    check_name(task, "task id")
    path = task_path(task, home)
    if path.exists():
        raise ConfigError(
            f"there is a file of task {task!r} already ({path}): edit or remove it, or use another"
            " task id"
        )
    check_name(host, "--host")
    if expires and expires < (today := datetime.now(UTC).date()):
        raise ConfigError(
            f"--expires {expires}: that day has passed (it is {today}, UTC); give a later one"
        )
    raw: dict[str, Any] = {
        "task": task,
        "address": address,
        "purpose": purpose,
        "host": {"party": host} if keyless else {"party": host, "key": load_key(host, home).public},
        "collaborators": [_member(each, keyless) for each in collaborators],
        "plan": _plan([_setting(each) for each in plan], len(collaborators), keyless=keyless),
        "limits": dict(_setting(each, "--limit", LeakLimits) for each in limits),
    }
    _let_sign([raw["host"], *raw["collaborators"]], signing, home)
    raw |= {"bind": bind} if bind else {}
    raw |= {"expires": expires} if expires else {}
    _keep(check_task(raw, "the new task"), path)
    return path


def accept_task(
    source: str, party: str | None, agrees: Callable[[dict[str, str], str], bool]
) -> tuple[TaskFile, str]:
    """Record a Collaborator's consent to a task, and install its file.

    Args:
        source: a task id, or the path of a task file.
        party: the party that consents, or None for the one whose key is on this machine.
        agrees: called with the terms and the party; returns whether the user consents.

    Returns:
        The task and the party.

    Raises:
        ConfigError: the file or the keys are wrong, or the user did not consent.
    """
    home = heterofed_home()
    task = find_task(source)
    party = party or own_party(task)
    if task.member(party) is task.host:
        raise ConfigError(
            f"{party} is the Host of task {task.task!r}: its own file needs no consent; run"
            " `heterofed task accept` at the Collaborators"
        )
    terms = task.terms()
    TaskPlace(task, party, home, insecure=True)
    if not agrees(shown_terms(terms), party):
        consent.refuse(home, task.task, party, terms_digest(terms), "the user said no")
        raise ConfigError(
            f"{party} did not accept task {task.task!r}, so nothing will be sent; agree on other"
            " terms with the Host, and accept those"
        )
    path = task_path(task.task, home)
    if path.exists():  # keys that this party revoked stay revoked
        revoked = dict.fromkeys([*task.revoked, *load_task(path).revoked])
        task = msgspec.structs.replace(task, revoked=tuple(revoked))
    _keep(task, path)
    consent.accept(home, task.task, party, terms_digest(terms))
    return task, party


def check_task_file(source: str, party: str | None, wait: float) -> Iterator[str]:
    """Check a task file as far as this party can, and yield a line for each check that passed.

    Args:
        source: a task id, or the path of a task file.
        party: the party that checks, or None for the one whose key is on this machine.
        wait: the longest time in seconds that a Host waits for the Collaborators' checks, or a
            Collaborator for the Host's answer.

    Raises:
        ConfigError: the file, the keys or the terms are wrong.
        JoinTimeoutError: no other party answered.
    """
    home = heterofed_home()
    task = find_task(source)
    yield f"the file is well-formed; its terms are {terms_digest(task.terms())[:16]}"
    party = party or own_party(task)
    place = TaskPlace(task, party, home, insecure=True)
    yield f"{party}'s key is the one in the file" if not task.is_keyless else "NO KEYS: insecure"
    if task.member(party) is task.host:
        yield from _check_as_host(task, place, party, wait)
        return
    digest = terms_digest(task.terms())
    agreed = consent.has_accepted(home, task.task, party, digest)
    yield f"{party} has {'' if agreed else 'NOT YET '}accepted these terms"
    theirs = _ask_host(place, party, wait)
    try:
        differ = differences(shown_terms(place.terms), shown_terms(theirs))
    except ValueError:
        differ = ["the Host's terms cannot be read"]
    if differ or theirs != place.terms:
        raise ConfigError(
            f"the files differ: {'; '.join(differ) or 'not in a field'}; agree on one and accept it"
        )
    yield f"the Host answers at {task.address}, and has the same terms"


def find_task(source: str) -> TaskFile:
    """Return the task with this id, or the one in the file at this path.

    Raises:
        ConfigError: there is no such file, or it cannot be used.
    """
    home = heterofed_home()
    if source.endswith(".toml") or "/" in source:
        return load_task(Path(source))
    check_name(source, "task id")
    path = task_path(source, home)
    if not path.exists():
        known = known_tasks(home)
        near = difflib.get_close_matches(source, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
        raise ConfigError(f"there is no file of task {source!r} ({path}); {hint}")
    return load_task(path)


# -- internal --------------------------------------------------------------------------------------


def _keep(task: TaskFile, path: Path) -> None:
    private_folder(heterofed_home(), "tasks")
    write_whole(path, lambda file: file.write(render(task).encode()))


def _member(given: str, keyless: bool) -> dict[str, str]:
    party, equals, key = given.partition("=")
    check_name(party, "--collaborator")
    if bool(equals) == keyless:
        raise ConfigError(
            f"--collaborator {given!r}: give "
            + ("PARTY alone, since the task has no keys" if keyless else "PARTY=PUBKEY")
        )
    if equals and len(key) != KEY_CHARACTERS:
        raise ConfigError(
            f"--collaborator {party}=...: that key has {len(key)} characters, and a public key has"
            f" {KEY_CHARACTERS}; put PARTY=PUBKEY in single quotes, because keys contain characters"
            " that a shell interprets"
        )
    return {"party": party, "key": key} if equals else {"party": party}


def _plan(given: list[tuple[str, Any]], collaborators: int, *, keyless: bool) -> dict[str, Any]:
    """Return the plan of a new task, in which pairwise intersections stay hidden where they can:
    with `psi_protocol=ecdh` and two Collaborators or more, unless `psi_parties` is given.

    Without keys, a Host could learn the secrets of Collaborators, by which they are hidden.
    """
    plan = dict(given)
    can = plan.get("psi_protocol") == "ecdh" and collaborators > 1 and "sites" not in plan
    return {"psi_parties": "joint"} | plan if can and not keyless else plan


def _let_sign(members: list[dict[str, str]], signing: Sequence[str], home: Path) -> None:
    """Add the signing keys, if there are any, to the parties of a new task, the Host first."""
    if not signing:
        return
    keys = dict(signing_key(each, "--signing") for each in signing)
    names = [each["party"] for each in members]
    if keys.keys() != set(names[1:]):
        raise ConfigError(
            f"--signing is given for {', '.join(keys)}, and the Collaborators are"
            f" {', '.join(names[1:])}; give it once for each of them"
        )
    keys[names[0]] = make_signing_key(names[0], home).public
    for each in members:
        each["signing"] = keys[each["party"]]


def signing_key(given: str, option: str) -> tuple[str, str]:
    """Split `PARTY=KEY`.

    Raises:
        ConfigError: it has another form.
    """
    party, _, key = given.partition("=")
    if not re.fullmatch("[0-9a-f]{64}", key):
        raise ConfigError(
            f"{option} {given!r}: give PARTY=KEY with the 64 digits that `heterofed keys signing"
            " PARTY` prints there"
        )
    return party, key


def _setting(
    given: str, option: str = "--plan", kinds: type[Plan] | type[LeakLimits] = Plan
) -> tuple[str, Any]:
    """Split `FIELD=VALUE` and convert the value to the type of the field."""
    name, equals, text = given.partition("=")
    fields = {each.name: each for each in msgspec.structs.fields(kinds)}
    known = [each for each in fields if each not in (*NOT_AGREED, LIMITS)]
    if not equals or name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        what = "a field of the plan" if kinds is Plan else "a limit"
        raise ConfigError(f"{option} {given!r}: give FIELD=VALUE with {what}; {remedy}")
    kind = fields[name].type
    with contextlib.suppress(msgspec.MsgspecError):
        return name, msgspec.to_builtins(msgspec.json.decode(text, type=kind))
    try:
        return name, msgspec.to_builtins(msgspec.convert(text, kind))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{option} {given!r}: {error}; give another value") from None


def _check_as_host(task: TaskFile, place: TaskPlace, party: str, wait: float) -> Iterator[str]:
    names = {each.party for each in task.collaborators}
    place.purpose = "check"
    with place.listen() as endpoint:
        host = Party(party, Role.HOST, endpoint, timeouts=Timeouts())
        try:
            yield f"the Host can listen at {task.listens_at}"
            admission = Admission(
                task_digest(task.task), task.purpose, party, [*names], terms=place.terms
            )
            admission.open(host)
            until, said, told = host.clock() + wait, set[str](), 0
            while host.clock() < until and said != names:
                host.pump(0.5)
                for name in sorted((admission.checked & names) - said):
                    said.add(name)
                    yield f"{name} is connected, and has the same terms"
                for shown in place.strangers.fingerprints[told:]:
                    told += 1
                    yield f"REFUSED: {stranger(shown, task.task)}"
        finally:
            host.close()
    if wait and said != names:
        raise JoinTimeoutError(
            f"no check came from {', '.join(sorted(names - said))} in {wait:.0f} s: have them run"
            f" `heterofed task check {task.task}`",
            party=party,
        )


def _ask_host(place: TaskPlace, name: str, wait: float) -> bytes:
    """Return the Host's terms."""

    def terms(party: Party, host: Peer) -> bytes:
        return party.take(host, Terms, computing=False).of(Terms).terms

    start = f"the Host's script, or `heterofed task check {place.task.task} --wait 60`"
    return visit(place, name, "check", terms, wait=wait, start=start)
