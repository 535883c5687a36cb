"""Requests to a stored set over a link: exact, refused by default, counted, and checked."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

import psi
from heterofed import errors as e
from heterofed.cli.task import new_task
from heterofed.hetero_nn.psi import (
    RSAPSICollaboratorScheduler,
    RSAPSIInitiatorScheduler,
    answer_stored,
    ask_stored,
)
from heterofed.identity.keys import new_key
from heterofed.intersection import stored as asking
from heterofed.intersection.stored import set_domain
from heterofed.messaging.party import Party
from heterofed.protocol import messages as m
from tests.docs.samples import blocks
from tests.e2e.processes import ROOT, Parties
from tests.e2e.tiny import run
from tests.identity.offices import Command, free_port

pytestmark = pytest.mark.usefixtures("home")

MANY = [f"person {number}" for number in range(400)]
FEW = [f"person {number}" for number in range(390, 405)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry") / "set"
    psi.StoredSet.create(folder, MANY, domain=set_domain("registry"), workers=1)
    return folder


@pytest.fixture
def stored(made: Path) -> psi.StoredSet:
    found = psi.StoredSet(made)
    found.allow("clinic", 10**6)
    return found


class Asker(RSAPSIInitiatorScheduler):
    """What `run` starts is a request."""

    name_of_set = "registry"

    def launch_task(self, task_id: str, resume: Any = "auto", **how: Any) -> Any:
        ask_stored(self, task_id, self.name_of_set)
        return self.result.ids


class Owner(RSAPSICollaboratorScheduler):
    stored: psi.StoredSet

    def launch_task(self, task_id: str, resume: Any = "auto", **how: Any) -> Any:
        return list(answer_stored(self, task_id, self.stored).matched)


def asked(
    tmp_path: Path, stored: psi.StoredSet, ids: list[str] = FEW, name: str = "registry"
) -> list[Any]:
    here: Any = {"join_timeout": 30, "results_dir": tmp_path}
    asker = Asker("clinic", ids=ids, **here)
    asker.name_of_set = name
    owner = Owner("registry", **here)
    owner.stored = stored
    return run(asker, owner, task="ask")


def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of messages that are posted from now on."""
    kinds: list[str] = []
    post = Party.post

    def noted(self: Party, peer: Any, message: Any, *rest: Any, **more: Any) -> None:
        kinds.append(type(message).__name__)
        post(self, peer, message, *rest, **more)

    monkeypatch.setattr(Party, "post", noted)
    return kinds


def test_both_learn_the_common_ids_and_the_filter_travels_once(
    stored: psi.StoredSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = said(monkeypatch)
    spent = stored.budget("clinic").spent()
    assert asked(tmp_path, stored) == [10, list(range(390, 400))]
    assert "StoredFilter" in kinds
    written = (tmp_path / "ask" / "clinic" / "stored" / "intersection.csv").read_text().split("\n")
    assert written == ["id", *sorted(FEW[:10]), ""]
    kinds.clear()
    assert asked(tmp_path, stored, ["nobody", "person 7"]) == [1, [7]]
    assert "StoredFilter" not in kinds
    assert stored.budget("clinic").spent() == spent + len(FEW) + 2


def test_nobody_may_ask_by_default_and_no_more_than_allowed(
    made: Path, stored: psi.StoredSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = said(monkeypatch)
    for most in (0, stored.budget("clinic").spent() + len(FEW) - 1):
        stored.allow("clinic", most)
        spent = stored.budget("clinic").spent()
        outcome = asked(tmp_path, stored)
        assert isinstance(outcome[1], e.PSILimitError)
        assert "psi-set allow" in str(outcome[1])
        assert isinstance(outcome[0], e.TaskAborted)
        assert "A stored set answers whom its owner allows" in str(outcome[0])
        assert stored.budget("clinic").spent() == spent
    assert not {"StoredFilter", "StoredBlinded", "StoredEvaluated"} & set(kinds)


def test_another_name_is_another_domain(stored: psi.StoredSet, tmp_path: Path) -> None:
    spent = stored.budget("clinic").spent()
    outcome = asked(tmp_path, stored, name="another")
    assert isinstance(outcome[0], e.PSIFailedError)
    assert "another domain" in str(outcome[0])
    assert isinstance(outcome[1], e.TaskAborted)
    assert stored.budget("clinic").spent() == spent


def test_the_filter_of_a_replaced_set_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = set_domain("registry")
    first = psi.StoredSet.create(tmp_path / "set", MANY, domain=domain, workers=1)
    first.allow("clinic", 100)
    assert asked(tmp_path, first)[0] == 10
    second = psi.StoredSet.create(tmp_path / "set", MANY[:395], domain=domain, workers=1)
    kinds = said(monkeypatch)
    assert asked(tmp_path, second) == [5, list(range(390, 395))]
    assert "StoredFilter" in kinds


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        (m.StoredEvaluated, "flip", "proof"),
        (m.StoredReplies, "flip", "does not prove"),
        (m.StoredFilter, "flip", "digest"),
        (m.StoredOffer, "rename", "not that of the set"),
        (m.StoredBlinded, "same", "twice"),
        (m.StoredClaims, "guess", "claimed twice"),
    ],
)
def test_a_peer_that_lies_ends_the_request(
    kind: type[m.Message],
    change: str,
    why: str,
    stored: psi.StoredSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of them sends other bytes than it should; the other one says so, and both end."""
    post = Party.post

    def lying(self: Party, peer: Any, message: Any, payload: Any = (), **more: Any) -> None:
        if isinstance(message, kind):
            data = bytearray(b"".join(map(bytes, payload)))
            if change == "rename":
                message = m.StoredOffer("ab" * 8, message.count, message.size)  # type: ignore[attr-defined]
            elif change == "flip":
                data[-1] ^= 1
            elif change == "same":
                data[32:64] = data[:32]
            elif data:
                data[16:32] = data[:16]
            payload = [bytes(data)] if data else payload
        post(self, peer, message, payload, **more)

    monkeypatch.setattr(Party, "post", lying)
    monkeypatch.setattr(asking, "_kept_filter", lambda *_: None)
    outcome = asked(tmp_path, stored)
    assert all(isinstance(each, e.PSIFailedError) for each in outcome)
    noticed, told = sorted(map(str, outcome), key=lambda text: "ended the task" in text)
    assert why in noticed
    assert "ended the task" not in noticed
    assert "ended the task" in told


def test_values_are_counted_before_they_are_evaluated(
    stored: psi.StoredSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is cut off counts, and can be made again."""
    post, spent = Party.post, stored.budget("clinic").spent()

    def dying(self: Party, peer: Any, message: Any, *rest: Any, **more: Any) -> None:
        if isinstance(message, m.StoredEvaluated):
            raise KeyboardInterrupt
        post(self, peer, message, *rest, **more)

    monkeypatch.setattr(Party, "post", dying)
    outcome = asked(tmp_path, stored)
    assert all(isinstance(each, BaseException) for each in outcome)
    assert stored.budget("clinic").spent() == spent + len(FEW)
    monkeypatch.setattr(Party, "post", post)
    assert asked(tmp_path, stored)[0] == 10


def in_home(parties: Parties, home: Path, *command: str) -> Any:
    return parties.start("-m", "heterofed", *command, HETEROFED_HOME=str(home))


@pytest.mark.long
def test_two_organisations_by_command(home: Path, parties: Parties, tmp_path: Path) -> None:
    """Keys, TCP, a request that is killed, the same again, one too many, and how each ends."""
    registry = Path(tempfile.mkdtemp(prefix="hf", dir="/tmp"))
    try:
        new_key("clinic", home)
        address = f"tcp://127.0.0.1:{free_port()}"
        owner = f"registry={new_key('registry', registry).public}"
        file = new_task("ask", host="clinic", address=address, collaborators=[owner], purpose="psi")
        accept = in_home(parties, registry, "task", "accept", str(file), "--yes")
        (tmp_path / "few.csv").write_text("id,x\n" + "".join(f"{each},1\n" for each in FEW))
        (tmp_path / "many.txt").write_text("".join(f"{each}\n" for each in MANY))
        folder, out, rows = (str(tmp_path / name) for name in ("set", "common.csv", "rows.csv"))
        create = ("psi-set", "create", folder, "--name", "people")
        made = in_home(parties, registry, *create, "--ids", str(tmp_path / "many.txt"))
        assert (accept.wait(), made.wait()) == (0, 0), accept.output + made.output
        assert "400 ids" in made.output
        assert "nobody may ask" in made.output
        allowed = in_home(parties, registry, "psi-set", "allow", folder, "clinic", "50")
        assert allowed.wait() == 0, allowed.output

        soon = ("--task", "ask", "--join-timeout", "60")
        serving = in_home(
            parties,
            registry,
            *("psi-set", "serve", folder, "--task", "ask", "--join-timeout", "30"),
            *("--requests", "0", "--out", rows),
        )
        few = ("--ids", str(tmp_path / "few.csv"), "--column", "id", "--out", out)
        ask = ("psi", *soon, "--role", "initiator", *few, "--stored", "people")
        copied = ["id,x", *(f"{each},1" for each in FEW[:10])]
        killed = in_home(parties, home, *ask)
        killed.wait_for("registry is here")
        killed.kill()  # before, within or after its request
        for _ in range(2):
            again = in_home(parties, home, *ask)
            assert again.wait() == 0, again.output
            assert "10 of 15 ids matched" in again.output
            assert Path(out).read_text().splitlines() == copied
        more = tmp_path / "more.txt"
        more.write_text("".join(f"somebody {number}\n" for number in range(21)))
        last = in_home(
            parties,
            home,
            *("psi", *soon, "--role", "initiator", "--ids", str(more)),
            *("--out", str(tmp_path / "none.txt"), "--stored", "people"),
        )
        assert last.wait() == 1
        assert "whom its owner allows" in " ".join(last.output.split())
        assert serving.wait() == 1, serving.output
        assert serving.output.count("10 ids of clinic are in the set") in (2, 3)
        kept = list(tmp_path.glob("rows-clinic-*.csv"))  # one of each request
        assert len(kept) == serving.output.count("10 ids of clinic are in the set")
        for each in kept:
            assert each.read_text().split() == ["row", *map(str, range(390, 400))]
        shown = in_home(parties, registry, "psi-set", "show", folder, "--json")
        assert shown.wait() == 0, shown.output
        asked = json.loads(shown.output.splitlines()[-1])["allowed"]["clinic"]
        assert asked["max_ids"] == 50
        assert 30 <= asked["asked"] <= 45
    finally:
        shutil.rmtree(registry)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--role", "collaborator"], "psi-set serve"),
        (["--role", "initiator", "--protocol", "ecdh"], "--protocol"),
        (["--role", "initiator", "--parties", "2"], "--parties"),
        (["--role", "initiator", "--joint"], "--joint"),
        (["--role", "initiator", "--fresh"], "--fresh"),
    ],
)
def test_options_that_say_nothing_about_a_stored_set(
    options: list[str], says: str, tmp_path: Path, command: Command
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("a\n")
    line = ["psi", "--task", "t", "--ids", str(ids), "--out", str(tmp_path / "o"), *options]
    assert command(*line, "--stored", "people") == 2
    assert says in command.err


def test_a_set_that_cannot_be_used_is_named(tmp_path: Path, command: Command) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("a\nb\na\n")
    folder = str(tmp_path / "set")
    assert command("psi-set", "create", folder, "--name", "n", "--ids", str(ids)) == 2
    assert "repeated" in command.err
    for line in (["show", folder], ["allow", folder, "x", "1"], ["serve", folder, "--task", "t"]):
        assert command("psi-set", *line) == 2
        assert "there is no stored set" in command.err
    ids.write_text("a\nb\n")
    assert command("psi-set", "create", folder, "--name", "n", "--ids", str(ids)) == 0
    assert command("psi-set", "allow", folder, "x", "7") == 0
    assert command("psi-set", "show", folder) == 0
    assert "x has asked for 0 of 7 ids" in command.out
    (Path(folder) / "set.json").write_text("{")
    assert command("psi-set", "show", folder) == 2
    assert "damaged" in command.err


def test_the_command_goes_on_with_the_same_ids_only(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, folder = tmp_path / "ids.txt", str(tmp_path / "set")
    ids.write_text("".join(f"{each}\n" for each in MANY))
    create = ("psi-set", "create", folder, "--name", "n", "--ids", str(ids))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("psi.unequal.compute.write_table", interrupted)
        assert command(*create) == 130
    key = [each.name for each in Path(folder).iterdir() if each.is_dir()]
    ids.write_text("other\n" + ids.read_text())
    assert command(*create) == 2
    assert "--fresh" in command.err
    ids.write_text(ids.read_text().removeprefix("other\n"))
    assert command(*create) == 0
    assert [psi.StoredSet(folder).name] == key
    assert command(*create, "--fresh") == 0
    assert [psi.StoredSet(folder).name] != key


@pytest.mark.slow
def test_an_executor_computes_a_set_if_it_may_have_the_key(
    tmp_path: Path, command: Command, home: Path
) -> None:
    ids, folder = tmp_path / "ids.txt", str(tmp_path / "set")
    ids.write_text("".join(f"{each}\n" for each in MANY))
    create = ("psi-set", "create", folder, "--name", "n", "--ids", str(ids))
    for far in ("dask://127.0.0.1:1", "ray://127.0.0.1:1"):
        assert command(*create, "--executor", far) == 2
        assert "--key-leaves" in command.err
    assert command(*create, "--executor", "threads") == 2
    assert "is no executor" in command.err
    (home / "config.toml").write_text('[psi]\nexecutor = "dask://127.0.0.1:1"\n')
    assert command(*create) == 2
    assert "config.toml" in command.err
    assert not Path(folder).exists()
    assert command(*create, "--executor", "processes:2") == 0
    assert psi.StoredSet(folder).count == len(MANY)


@pytest.mark.slow
def test_the_page_runs_as_it_stands(parties: Parties, tmp_path: Path) -> None:
    """The owner's commands and the asker's, on one machine, as the guide shows them."""
    page = ROOT / "docs/how-to/psi-only.md"
    owner, asker = (
        each for each in blocks(page, "console") if "--stored" in each or "psi-set" in each
    )
    (tmp_path / "people.csv").write_text("id\n" + "".join(f"{each}\n" for each in MANY))
    (tmp_path / "patients.csv").write_text("id\n" + "".join(f"{each}\n" for each in FEW))

    def start(line: str) -> Any:
        program, *words = shlex.split(line.removeprefix("$ "))
        assert program == "heterofed"
        run_in = "import os, runpy, sys; os.chdir(sys.argv.pop(1)); runpy.run_module('heterofed')"
        run_in = run_in.replace("'heterofed'", "'heterofed', run_name='__main__'")
        return parties.start("-c", run_in, str(tmp_path), *words, PYTHONPATH=str(ROOT))

    *before, serve, show = owner.splitlines()
    for line in before:
        done = start(line)
        assert done.wait() == 0, done.output
    both = [start(serve), start(asker)]
    for each in both:
        assert each.wait() == 0, each.output
    shown = start(show)
    assert shown.wait() == 0
    assert "clinic has asked for 15 of 5000 ids" in shown.output
    for name in ("common.csv", "rows.csv"):
        assert (tmp_path / name).read_text().splitlines() == ["id", *FEW[:10]]
