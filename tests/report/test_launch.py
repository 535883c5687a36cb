"""Real runs leave a report, whatever their end; none is ended by it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from heterofed import TaskResult, simulate
from heterofed.errors import ConfigError, JoinTimeoutError
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.identity.keys import load_key
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.report import render
from heterofed.report.gather import gather
from heterofed.report.model import RunReport
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run
from tests.identity.offices import Command, open_offices

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def parties(folder: Path, **settings: Any) -> tuple[TinyHost, TinyCollaborator]:
    return (
        TinyHost(folder, psi_protocol="ecdh", leak_report="full", **settings),
        TinyCollaborator(folder, leak_report="full"),
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskResult]:
    folder = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFED_HOME", str(folder / "home"))
        host, bob = parties(folder / "runs")
        return simulate(host, [bob], task_id="tiny").results


@pytest.mark.slow
def test_each_party_has_one_of_its_own(done: dict[str, TaskResult]) -> None:
    for name, result in done.items():
        assert result.report == result.folder / "report.html"
        text = result.report.read_text()
        report = gather(result.folder)
        assert (report.outcome.state, report.rounds, report.party) == ("finished", 2, name)
        assert (report.counts.own, report.counts.common) == (50, 40)
        assert (report.counts.train or 0) + (report.counts.test or 0) == 40
        assert report.meeting == "in this simulation"
        assert not any(each in text for each in IDS)
        assert result.leaks[0].partition(": ")[2] == report.leaks[0].sentence
        assert report.unread == []
    assert gather(done["alice"].folder).metrics[0].name == "quality"


def test_a_hook_that_raises_leaves_a_report_that_names_it(tmp_path: Path) -> None:
    class Host(TinyHost):
        def on_round_end(self) -> None:
            raise ValueError(f"patient {IDS[20]}")

    run(Host(tmp_path, psi_protocol="ecdh"), TinyCollaborator(tmp_path))
    text = (tmp_path / "tiny" / "alice" / "report.html").read_text()
    assert "The last launch failed" in text
    assert "ValueError was raised by on_round_end" in text
    assert IDS[20] not in text
    theirs = gather(tmp_path / "tiny" / "bob")
    assert theirs.outcome.state == "failed"
    assert "alice" in theirs.outcome.message
    assert theirs.counts.common == 40


@pytest.mark.slow
def test_keys_terms_and_consent_are_those_of_the_task_file(home: Path, tmp_path: Path) -> None:
    open_offices(home, plan=["max_rounds=2", "psi_protocol=ecdh"])
    outcomes = run(TinyHost(tmp_path, psi_protocol="ecdh"), TinyCollaborator(tmp_path))
    report = gather(tmp_path / "tiny" / "bob")
    assert report.outcome.state == "finished", outcomes
    assert report.secured
    assert [each.fingerprint for each in report.parties] == [
        load_key(each, home).fingerprint for each in ("alice", "bob")
    ]
    assert report.agreed is not None
    assert len(report.agreed.terms) == 64
    assert report.agreed.accepted.startswith("20")
    assert report.agreed.started >= report.agreed.accepted
    text = (tmp_path / "tiny" / "bob" / "report.html").read_text()
    assert "Every party proved who it is by its key" in text
    assert f"{report.agreed.accepted[:10]} {report.agreed.accepted[11:16]} UTC" in text


@pytest.mark.slow
def test_a_launch_that_met_nobody_leaves_the_report_of_the_run_before(tmp_path: Path) -> None:
    host, bob = parties(tmp_path)
    simulate(host, [bob], task_id="tiny")
    path = tmp_path / "tiny" / "alice" / "report.html"
    before = path.read_bytes()
    (outcome,) = run(TinyHost(tmp_path, join_timeout=0.3))
    assert isinstance(outcome, JoinTimeoutError)
    assert path.read_bytes() == before
    report = gather(path.parent)
    assert (report.outcome.state, report.is_of_earlier_run, report.rounds) == ("failed", True, 2)
    assert "What follows is of the run before it" in render.rendered(report)


def test_a_run_that_was_killed_has_one_on_demand(
    done: dict[str, TaskResult], tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    status = json.loads((done["alice"].folder / "status.json").read_bytes())
    status |= {"state": "running", "phase": "train", "round": 1, "ended": None}
    (folder / "status.json").write_text(json.dumps(status))
    text = render.write_report(folder).read_text()
    assert "This run has not ended" in text
    assert "start all parties again" in text


def test_tasks_that_only_intersect_have_one(tmp_path: Path) -> None:
    run(
        RSAPSIInitiatorScheduler("alice", ids=IDS[:50], psi_protocol="ecdh", results_dir=tmp_path),
        RSAPSICollaboratorScheduler("bob", ids=IDS[10:], results_dir=tmp_path),
    )
    text = (tmp_path / "tiny" / "alice" / "report.html").read_text()
    assert "40 of its 50" in text
    assert "Guarantees" not in text
    assert not any(each in text for each in IDS)


@pytest.mark.slow
def test_defences_and_epsilons_are_told(tmp_path: Path) -> None:
    class Host(TinyHost):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            from heterofed import Batch

            for features, labels in super().iterate_train_feature(feature_model, train_ids):
                ids, train_ids = train_ids[: len(labels)], train_ids[len(labels) :]
                yield Batch(features, labels, ids)

    host = Host(tmp_path, psi_protocol="ecdh", label_dp=RandomisedResponse(2.0))
    simulate(host, [TinyCollaborator(tmp_path)], task_id="tiny")
    report = gather(host.result.folder)
    assert report.defences == {"labels": "RandomisedResponse"}
    assert [(each.column, each.value) for each in report.epsilons] == [("eps_labels", 2.0)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gather", "write_whole", "page_template"])
def test_a_report_that_fails_costs_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("secret row 42")

    monkeypatch.setattr(render, name, fail)
    caplog.set_level(logging.INFO)
    host, bob = parties(tmp_path)
    done = simulate(host, [bob], task_id="tiny").results
    assert done["alice"].rounds == 2
    assert done["alice"].report is None
    said = [each for each in caplog.messages if "the report failed" in each]
    assert len(said) == 2  # one at each party
    assert "secret" not in caplog.text


def test_the_command_makes_it_anew(
    done: dict[str, TaskResult],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = done["alice"].folder
    (folder / "report.html").unlink()
    assert command("report", str(folder)) == 0
    assert command.out.strip() == str(folder / "report.html")
    assert (folder / "report.html").exists()
    assert command("report", str(folder), "--format", "md", "--output", "-") == 0
    assert command.out.startswith("# tiny\n")
    out = tmp_path / "card.md"
    assert command("report", str(folder), "--format", "card", "--output", str(out)) == 0
    assert out.read_text().startswith("---\nlibrary_name: heterofed")
    assert command("report", str(folder.parent)) == 2
    assert f"several parties: give one of {folder}, {folder.parent / 'bob'}" in command.err
    monkeypatch.chdir(folder.parents[1].parent)
    Path("heterofed_runs").symlink_to(folder.parents[1])
    assert command("report", "tiny/bob") == 0
    assert command("report", "tinny") == 2
    assert "did you mean 'tiny'?" in command.err
    assert command("report", "tiny/bob", "--output", "no/such/folder/x.html") == 2


def test_a_report_of_nothing_is_one_still_and_of_no_kind_is_an_error() -> None:
    nothing = RunReport(task="t", party="p", made="", made_with="")
    assert all("t" in render.rendered(nothing, kind) for kind in render.FILES)
    with pytest.raises(ConfigError, match="give one of html"):
        render.rendered(nothing, "pdf")  # type: ignore[arg-type]
