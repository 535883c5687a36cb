"""A standing link takes over another version of the model, and back, without losing a request."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from heterofed import simulate, simulate_prediction
from heterofed.cli.app import cli
from heterofed.errors import ConfigError
from heterofed.hetero_nn.serve.held_runs import HeldRuns
from heterofed.hetero_nn.serve.host import Serving
from heterofed.hetero_nn.serve.request_queue import Scores
from heterofed.hetero_nn.serve.serve_limits import ServeLimits
from heterofed.reporting.results import fresh_folder
from tests.e2e.tiny import IDS
from tests.hetero_nn.served import ENOUGH, Office
from tests.hetero_nn.test_prediction import Collaborator, Host
from tests.identity.offices import open_offices

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

ASKED = IDS[20:24]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two runs, one after the other, with other weights."""
    folder = tmp_path_factory.mktemp("trained")
    for seed in (1, 2):
        parties = [Collaborator(folder, seed=seed)]
        simulate(Host(folder, seed=seed), parties, task_id="tiny")
    return folder


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


@pytest.fixture(scope="module")
def wanted(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, list[float]]:
    """The predictions of each run for `ASKED`, by the run."""
    found = {}
    for each in HeldRuns(trained / "tiny/alice").all():
        folder = tmp_path_factory.mktemp("one")
        for party in ("alice", "bob"):
            (half,) = [x for x in HeldRuns(trained / "tiny" / party).all() if x.run == each.run]
            shutil.copytree(half.folder, folder / "tiny" / party)
        parties = [Collaborator(folder)]
        done = simulate_prediction(Host(folder), parties, task_id="tiny", ids=ASKED)
        found[each.run] = list(done.results["alice"]["prediction"])
    return found


@pytest.fixture
def start(home: Path, results: Path) -> Iterator[Any]:
    """Starts a Host and a Collaborator that serve; they are stopped after the test."""
    open_offices(home, plan=["max_rounds=2", "psi_protocol=ecdh"])
    made: list[Office] = []

    def begin(bob: Any = Collaborator, limits: ServeLimits = ENOUGH, **settings: Any) -> Office:
        given = {
            "fresh": lambda: Host(results),
            "another": {"bob": lambda: bob(results)},
            **settings,
        }
        made.append(Office(Host(results), [bob(results)], limits, **given))
        return made[-1]

    yield begin
    for office in made:
        office.end()


def use(results: Path, run: str, *more: str) -> Any:
    common = ["models", "use", "tiny", run, "--party", "alice", "--results", str(results)]
    return CliRunner().invoke(cli, [*common, *more])


def settled(results: Path, run: bytes, seconds: float = 20.0) -> None:
    """Choose a run, and wait until it is served."""
    done = use(results, run.hex(), "--wait", str(seconds))
    assert done.exit_code == 0, done.exception
    assert run.hex() in done.output
    assert "version" in done.output


class Callers:
    """Callers that ask all the time, from several threads."""

    def __init__(self, office: Office) -> None:
        self.found: list[Scores] = []
        self.failed: list[BaseException] = []
        self._office, self._over = office, threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(3)]
        for each in self._threads:
            each.start()

    def _call(self) -> None:
        while not self._over.is_set():
            try:
                self.found.append(self._office.ask_once(*ASKED))
            except BaseException as error:
                self.failed.append(error)

    def more(self, count: int = 10) -> None:
        """Wait for further answers."""
        before, ends = len(self.found), time.monotonic() + 20
        while len(self.found) < before + count:
            assert time.monotonic() < ends
            time.sleep(0.01)

    def end(self) -> None:
        self._over.set()
        for each in self._threads:
            each.join(20)


def test_versions_take_over_and_back_without_a_lost_request(
    start: Any, results: Path, wanted: dict[bytes, list[float]]
) -> None:
    newest, older = wanted
    office = start()
    first = office.ask(*ASKED)
    assert first.columns["prediction"] == pytest.approx(wanted[newest], abs=1e-6)
    callers = Callers(office)
    versions = [first.version]
    for run in (older, newest, older):
        settled(results, run)
        callers.more()
        versions.append(office.ask_once(*ASKED).version)
    callers.end()
    assert not callers.failed
    assert versions[0] == versions[2] != versions[1] == versions[3]
    right = {versions[0]: wanted[newest], versions[1]: wanted[older]}
    for each in callers.found:
        assert each.columns["prediction"] == pytest.approx(right[each.version], abs=1e-6)
    assert {each.version for each in callers.found} == right.keys()


def test_a_row_that_is_asked_for_again_after_a_switch_and_back_is_free(
    start: Any, results: Path, wanted: dict[bytes, list[float]]
) -> None:
    newest, older = wanted
    office = start(limits=ServeLimits(max_rows_per_day=8))
    office.ask(*ASKED)
    settled(results, older)
    assert len(office.ask_once(*ASKED).parties) == 4  # these are other features, and count
    settled(results, newest)
    assert len(office.ask_once(*ASKED).parties) == 4  # these are kept


def test_a_party_that_does_not_hold_a_version_lets_the_one_before_go_on(
    start: Any, results: Path, wanted: dict[bytes, list[float]]
) -> None:
    _newest, older = wanted
    shutil.rmtree(results / "tiny/bob.1")
    office = start()
    before = office.ask(*ASKED)
    done = use(results, older.hex())
    assert isinstance(done.exception, ConfigError)
    assert "bob holds no such run" in str(done.exception)
    assert office.ask_once(*ASKED) == before
    assert HeldRuns(results / "tiny/alice").first().run != older  # the wish is withdrawn


def test_a_party_that_fails_to_load_a_version(
    start: Any, results: Path, wanted: dict[bytes, list[float]]
) -> None:
    _newest, older = wanted
    office = start(another={})
    before = office.ask(*ASKED)
    done = use(results, older.hex())
    assert "bob could not load it" in str(done.exception)
    assert office.ask_once(*ASKED) == before
    (results / "tiny/alice.1/infer_model.pt").write_bytes(b"damaged")
    assert "cannot be read" in str(use(results, older.hex()).exception)
    assert office.ask_once(*ASKED) == before


def test_without_further_schedulers_the_link_is_opened_anew(
    start: Any, results: Path, wanted: dict[bytes, list[float]]
) -> None:
    _newest, older = wanted
    office = start(another={}, fresh=None)
    before = office.ask(*ASKED)
    settled(results, older)
    after = office.ask(*ASKED)
    assert after.version != before.version
    assert after.columns["prediction"] == pytest.approx(wanted[older], abs=1e-6)


def test_a_choice_holds_for_the_next_server(
    start: Any, results: Path, wanted: dict[bytes, list[float]]
) -> None:
    _newest, older = wanted
    done = use(results, older.hex()[:8], "--wait", "0")
    assert done.exit_code == 0
    found = start().ask(*ASKED)
    assert found.columns["prediction"] == pytest.approx(wanted[older], abs=1e-6)


def test_a_choice_that_is_made_while_the_parties_meet_is_taken_up(
    start: Any, results: Path, wanted: dict[bytes, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for one that the run has granted which was loaded before."""
    _, older = wanted
    held, settle = HeldRuns(results / "tiny/alice"), Serving._settle_rows

    def meanwhile(session: Serving, run: Any) -> None:
        settle(session, run)
        if held.wanted() is None:
            held.want(next(each for each in held.all() if each.run == older))

    monkeypatch.setattr(Serving, "_settle_rows", meanwhile)
    office = start()
    ends = time.monotonic() + 20
    while (served := held.served()) is None or served.run != older.hex():
        assert served is None or served.turn != 1, "a run is said to be that of the choice"
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert office.ask(*ASKED).columns["prediction"] == pytest.approx(wanted[older])


def test_runs_are_listed_added_and_named(
    results: Path, tmp_path: Path, wanted: dict[bytes, list[float]]
) -> None:
    newest, older = (each.hex() for each in wanted)
    common = ["--party", "alice", "--results", str(results)]
    listed = CliRunner().invoke(cli, ["models", "list", "tiny", *common]).output.splitlines()
    assert [line.split()[0] for line in listed] == [newest, older]
    elsewhere = shutil.copytree(results / "tiny/alice.1", tmp_path / "elsewhere")
    twice = CliRunner().invoke(cli, ["models", "add", "tiny", *common, str(elsewhere)])
    assert "here already" in str(twice.exception)
    shutil.rmtree(results / "tiny/alice.1")
    added = CliRunner().invoke(cli, ["models", "add", "tiny", *common, str(elsewhere)])
    assert added.exit_code == 0, added.exception
    assert [each.run.hex() for each in HeldRuns(results / "tiny/alice").all()] == [newest, older]
    assert "0 runs begin with" in str(use(results, "ffffff").exception)
    assert "give --party" in str(
        CliRunner().invoke(cli, ["models", "list", "tiny", "--results", str(results)]).exception
    )


def test_a_new_training_leaves_what_belongs_to_the_server(tmp_path: Path) -> None:
    folder = tmp_path / "bank"
    (folder / "serving").mkdir(parents=True)
    (folder / "serving/token").write_text("kept")
    (folder / "feature_model.pt").write_text("old")
    fresh_folder(folder)
    assert (folder / "serving/token").read_text() == "kept"
    assert (tmp_path / "bank.1/feature_model.pt").read_text() == "old"
    assert not (tmp_path / "bank.1/serving").exists()
