"""Scripts as users of AlphaMed have them run here, or fail clearly: real processes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.processes import ROOT, Parties, PartyProcess

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

Start = Callable[..., PartyProcess]

SCRIPTS = ROOT / "tests" / "examples" / "alphamed"
RUNS = Path("heterofed_runs") / "alphamed_mnist"
FEW = {"TRAIN_ROWS": "400", "TEST_ROWS": "90"}  # the last batches have 16 and 90 rows


@pytest.fixture
def start(parties: Parties, mnist: Path, tmp_path: Path) -> Start:
    """Starts `python <role>.py` in the folder that holds it, as a user would."""

    def start_script(role: str, **env: str) -> PartyProcess:
        script = f"{role}.py"
        shutil.copy(SCRIPTS / script, tmp_path)
        become = (  # the same process, so that its exit code and signals are the script's
            f"import os, sys; os.chdir({str(tmp_path)!r});"
            f" os.execv(sys.executable, [sys.executable, {script!r}])"
        )
        places = {"PYTHONPATH": str(ROOT), "MNIST_DIR": str(mnist.absolute())}
        return parties.start("-c", become, cold=False, **places, **env)

    return start_script


def assert_numeric(path: Path, columns: list[str], rows: int) -> pd.DataFrame:
    table = pd.read_csv(path)
    assert list(table.columns) == columns
    assert len(table) == rows
    for column in columns:
        assert pd.api.types.is_numeric_dtype(table[column]), column
    assert not table.isna().any(axis=None)
    return table


def assert_results(folder: Path, rounds: int) -> pd.DataFrame:
    """What a run leaves; gives the test results."""
    assert_numeric(folder / "left" / "timer.csv", ["round", "run_time"], rounds)
    columns = ["round", "average_loss", "accuracy", "correct_rate"]
    table = assert_numeric(folder / "left" / "test_results.csv", columns, rounds)
    assert list(table["round"]) == list(range(1, rounds + 1))
    assert {each.name for each in (folder / "left").glob("*_model.pt")} == {
        "feature_model.pt",
        "infer_model.pt",
    }
    assert (folder / "right" / "feature_model.pt").is_file()
    return table


@pytest.mark.long
def test_equal_batch_sizes_run_to_the_end(start: Start, tmp_path: Path) -> None:
    both = [start("collaborator", **FEW), start("host", **FEW, ROUNDS="2")]
    for party in both:
        assert party.wait() == 0, party.output
    table = assert_results(tmp_path / RUNS, rounds=2)
    assert (table["correct_rate"] == table["accuracy"] * 100).all()
    host = both[1].output
    assert "400 samples to train on, 90 to test on" in host
    assert "data check for task alphamed_mnist: passed" in host
    assert "[ROUND 2/2]" in host
    assert {each.name for each in tmp_path.iterdir() if each.suffix != ".log"} == {
        "host.py",
        "collaborator.py",
        "heterofed_runs",
    }


@pytest.mark.long
@pytest.mark.timeout(900)
def test_whole_mnist_runs_to_the_end(start: Start, tmp_path: Path) -> None:
    both = [start("host", ROUNDS="1"), start("collaborator")]
    for party in both:
        assert party.wait(800) == 0, party.output
    assert "60000 samples to train on, 10000 to test on" in both[0].output
    table = assert_results(tmp_path / RUNS, rounds=1)
    assert table["accuracy"].iloc[-1] > 0.8


@pytest.mark.long
@pytest.mark.slow
def test_other_batch_size_ends_both_with_both_counts(start: Start) -> None:
    rows = {"TRAIN_ROWS": "10000", "TEST_ROWS": "50"}
    collaborator = start("collaborator", BATCH_SIZE="10000", **rows)
    host = start("host", BATCH_SIZE="128", **rows)
    collaborator.wait_for("first train batch: 10000 rows", timeout=90)
    began = time.monotonic()
    for party in (host, collaborator):
        assert party.wait(30) != 0, party.output
        assert "RowCountError" in party.output
        (*_, last) = [line for line in party.output.splitlines() if "RowCountError: " in line]
        assert "10000" in last
        assert "128" in last
    assert time.monotonic() - began < 30


@pytest.mark.long
def test_spawned_workers_without_main_guard_are_refused(start: Start, tmp_path: Path) -> None:
    host = start("host", **FEW, WORKERS="1", START_METHOD="spawn")
    collaborator = start("collaborator", **FEW)
    assert host.wait() != 0, host.output
    assert collaborator.wait() != 0, collaborator.output
    assert "ConfigError: a worker process imported this script again" in host.output
    assert 'if __name__ == "__main__":' in host.output
    assert "HookFailedError" in collaborator.output
    assert host.output.count("demo_collaborator is here") == 1
    assert not (tmp_path / RUNS / "left" / "test_results.csv").exists()
    assert not (tmp_path / RUNS / "left.1").exists()


@pytest.mark.long
def test_forked_workers_run_to_the_end(start: Start, tmp_path: Path) -> None:
    host = start("host", **FEW, WORKERS="1", START_METHOD="fork")
    collaborator = start("collaborator", **FEW)
    for party in (host, collaborator):
        assert party.wait() == 0, party.output
    assert_results(tmp_path / RUNS, rounds=1)
