"""The bundle for a question to the maintainers: it has what they need, and nothing of the data."""

from __future__ import annotations

import json
import socket
import zipfile
from pathlib import Path
from typing import Any

import pytest

from heterofed import register_metrics
from heterofed.cli.cleared import HIDDEN, Clearing, clearing_of
from heterofed.identity.keys import load_key
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run
from tests.identity.offices import Command, open_offices

TASK = "sentineltask"
PLANTED = "sentinel"
"""Begins every planted name and text."""


class SentinelError(Exception):
    """What a user's hook raises; its name and its text may say anything."""


class Host(TinyHost):
    """A Host whose metrics and columns have names of its own, and which fails in round 2."""

    @register_metrics(name="sentinelset", keys=["sentinelcolumn"])
    def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
        self.get_metrics("sentinelset").append_metrics_item({"sentinelcolumn": 0.123454321})

    def extra_state(self) -> Any:
        return {"sentinelstate": "sentinelvalue"}

    def on_round_end(self) -> None:
        if self.current_round == 2:
            raise SentinelError("sentinelmessage of id-007")


@pytest.fixture
def failed(home: Path, tmp_path: Path) -> Path:
    """The Host's results folder of a run that a hook of the user has ended."""
    open_offices(home, task=TASK, plan=["psi_protocol=ecdh", "max_rounds=2"])
    folder = tmp_path / "sentinelpath"
    outcomes = run(Host(folder), TinyCollaborator(folder), task=TASK)
    assert isinstance(outcomes[0], SentinelError), outcomes
    return folder / TASK / "alice"


def test_it_has_what_a_maintainer_needs_and_nothing_of_the_data(
    failed: Path, home: Path, tmp_path: Path, command: Command
) -> None:
    output = tmp_path / "bundle.zip"
    plant(failed)
    assert command("bundle", str(failed), "--output", str(output)) == 0
    members = read(output)
    text = "\n".join([*members, *members.values()])
    keys = [load_key(each, home) for each in ("alice", "bob")]
    secrets = [each for key in keys for each in (key.public, key.secret)]
    for hidden in (PLANTED, "Sentinel", *IDS, *secrets, "127.0.0.1", "0.123454", str(tmp_path)):
        assert hidden not in text, hidden
    for hidden in ("alice", "bob", socket.gethostname()):
        assert f'"{hidden}"' not in text
    told = json.loads(members["run.json"])
    assert (told["own"], told["state"], told["round"]) == ("host", "failed", 2)
    assert told["error"]["hook"] == "on_round_end"
    assert told["plan"]["psi_protocol"] == "ecdh"
    assert told["settings"]["max_rounds"] == 2
    costs = json.loads(members["comm.json"])
    assert any(each["phase"] == "train" and each["bytes"] > 0 for each in costs)
    assert json.loads(members["versions.json"])["heterofed"]
    kinds = {each["kind"] for each in json.loads(members["events.json"])}
    assert {"began", "phase", "done", "ended"} <= kinds
    assert command("bundle", str(failed), "--output", str(output)) == 2
    assert "exists already" in command.err


def read(archive: Path) -> dict[str, str]:
    with zipfile.ZipFile(archive) as opened:
        assert not opened.comment
        return {each: opened.read(each).decode() for each in opened.namelist()}


def plant(folder: Path) -> None:
    """Write sentinels where another version, or a hand, could: keys, values, columns, lines."""
    for name in ("status.json", "summary.json"):
        path = folder / name
        whole = json.loads(path.read_text()) if path.exists() else {}
        whole |= {"sentinelkey": ["sentinelvalue"], "defences": {"sentinel": "sentinel"}}
        whole["settings"] = {**whole.get("settings", {}), "device": "sentineldevice"}
        path.write_text(json.dumps(whole))
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "sentinelkind", "at": 1.0, "sentinel": "sentinel"}) + "\n")
        file.write("sentinelline\n")
    for name in ("comm.csv", "outbound.csv"):
        with (folder / name).open("a") as file:
            file.write("sentinel,sentinel,sentinel,sentinel,sentinel,sentinel\n")


def test_texts_pass_only_if_they_are_our_own() -> None:
    clearing = Clearing("17", ["shop.example"])
    assert clearing.value({"17": "shop.example", "phase": "train"}) == {
        "host": "collaborator 1",
        "phase": "train",
    }
    assert clearing.value(["id-001", 3, None, True, 0.5]) == [HIDDEN, 3, None, True, 0.5]
    assert clearing.value({"income": {"metrics": {"income": 3}}}) == {f"{HIDDEN} 0": {}}
    for odd in (None, 3, [1], {"host": 3}, {"host": "a", "collaborators": "x"}):
        assert clearing_of(odd).text("train") == "train"
