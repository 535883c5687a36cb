"""`status.json` tells how a launch stands, from its first second on and after whatever end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from heterofed import simulate
from heterofed.errors import ConfigError, JoinTimeoutError
from heterofed.events import Event, PhaseBegan, RoundEnded
from heterofed.hetero_nn.psi import RSAPSIInitiatorScheduler
from tests.e2e.processes import Parties
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "status.json").read_bytes())
    return found


def test_it_is_kept_current_and_ends_with_the_last_values(tmp_path: Path) -> None:
    seen: list[tuple[str, str, int]] = []

    def look(event: Event) -> None:
        if isinstance(event, PhaseBegan | RoundEnded):
            now = status(tmp_path / "tiny" / "alice")
            seen.append((now["state"], now["phase"], now["round"]))

    host = TinyHost(tmp_path, callbacks=[look], psi_protocol="ecdh")
    simulate(host, [TinyCollaborator(tmp_path)], task_id="tiny")
    for phase, round_number in [("psi", 0), ("train", 1), ("test", 1), ("train", 2)]:
        assert ("running", phase, round_number) in seen
    for party in ("alice", "bob"):
        now = status(tmp_path / "tiny" / party)
        assert (now["state"], now["round"], now["error"]) == ("finished", 2, None)
        assert now["run"] == host.result.run
        assert now["started"] <= now["ended"]
        assert {"heterofed", "python", "torch"} <= now["versions"].keys()
        assert now["plan"]["max_rounds"] == 2
        assert now["settings"]["join_timeout"] == 60
        assert "seed" not in now["settings"] | now["plan"]
        text = (tmp_path / "tiny" / party / "status.json").read_text()
        assert not any(each in text for each in IDS)
    assert set(status(host.result.folder)["metrics"]) == {"loss", "accuracy", "round"}


def test_nobody_came(tmp_path: Path) -> None:
    (outcome,) = run(TinyHost(tmp_path, join_timeout=0.3))
    assert isinstance(outcome, JoinTimeoutError)
    now = status(tmp_path / "tiny" / "alice")
    assert (now["state"], now["phase"]) == ("failed", "join")
    assert now["error"] == {"type": "JoinTimeoutError", "message": str(outcome), "hook": None}
    run(TinyHost(tmp_path, join_timeout=0.3))
    assert [each.name for each in (tmp_path / "tiny").iterdir()] == ["alice"]  # nothing moved aside


def test_settings_that_cannot_work_leave_everything_as_it_was(tmp_path: Path) -> None:
    def refused() -> None:
        with pytest.raises(ConfigError, match="collaborators"):
            TinyHost(tmp_path / "results", collaborators=["alice"]).launch_task("tiny")

    refused()
    assert not (tmp_path / "results").exists()
    simulate(
        TinyHost(tmp_path / "results"), [TinyCollaborator(tmp_path / "results")], task_id="tiny"
    )
    before = (tmp_path / "results/tiny/alice/status.json").read_bytes()
    refused()
    assert (tmp_path / "results/tiny/alice/status.json").read_bytes() == before


def test_a_hook_that_raises_is_named_and_its_text_is_not_kept(tmp_path: Path) -> None:
    class Host(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            raise ValueError(f"patient {IDS[20]}")

    run(Host(tmp_path), TinyCollaborator(tmp_path))
    now = status(tmp_path / "tiny" / "alice")
    assert now["error"] == {"type": "ValueError", "message": None, "hook": "train_a_batch"}
    assert (now["state"], now["phase"], now["round"]) == ("failed", "train", 1)
    theirs = status(tmp_path / "tiny" / "bob")
    assert theirs["state"] == "failed"
    assert "alice" in theirs["error"]["message"]


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_after_a_kill_it_still_says_where(parties: Parties, tmp_path: Path, how: str) -> None:
    child = parties.start("-m", "tests.e2e.tiny", "host", "tiny", str(tmp_path), "slow")
    other = parties.start("-m", "tests.e2e.tiny", "collaborator", "tiny", str(tmp_path))
    child.wait_for("batch 1")
    getattr(child, how)()
    assert child.wait() == (-signal.SIGKILL if how == "kill" else 128 + signal.SIGTERM)
    other.wait()
    now = status(tmp_path / "tiny" / "alice")
    assert (now["phase"], now["round"]) == ("train", 1)
    if how == "terminate":
        assert (now["state"], now["error"]["type"]) == ("interrupted", "SIGTERM")
        return
    assert now["state"] == "running"
    with pytest.raises(ProcessLookupError):
        os.kill(now["process"], 0)


def test_a_task_that_only_intersects_has_one_too(tmp_path: Path) -> None:
    run(RSAPSIInitiatorScheduler("alice", ids=IDS, results_dir=tmp_path, join_timeout=0.3))
    assert status(tmp_path / "tiny" / "alice")["error"]["type"] == "JoinTimeoutError"


def test_a_new_run_leaves_the_old_folder_as_it_was(tmp_path: Path) -> None:
    for _ in range(2):
        host = TinyHost(tmp_path, psi_protocol="ecdh")
        simulate(host, [TinyCollaborator(tmp_path)], task_id="tiny")
    assert not (tmp_path / "tiny" / "alice.1" / "status.json").exists()
    assert (tmp_path / "tiny" / "alice.1" / "summary.json").exists()
    assert status(host.result.folder)["run"] == host.result.run


def test_a_file_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tiny" / "alice" / "status.json").mkdir(parents=True)
    (tmp_path / "tiny" / "alice" / "status.json" / "file").touch()
    assert isinstance(run(TinyHost(tmp_path, join_timeout=0.3))[0], JoinTimeoutError)
    assert len([each for each in caplog.messages if "status.json failed" in each]) == 1
