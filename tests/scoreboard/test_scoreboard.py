"""The scoreboard: jobs, the judge, the tables, and a whole run of heterofed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs.generator import scoreboard as tables
from scoreboard import conductor, render, results
from scoreboard.faults import FAULTS
from scoreboard.jobs import CHANGES, Source, aligned, make_job
from scoreboard.judge import accuracy, difference, milliseconds
from tests.e2e.processes import ROOT

BATCH = 128


@pytest.fixture
def data() -> Source:
    """Four batches to train on, and 100 rows to test."""
    train, rows = 4 * BATCH, 4 * BATCH + 100
    ids = np.array([f"{'a' if row < train else 'b'}-{row:05}" for row in range(rows)])
    draw = np.random.default_rng(1)
    host = {"ids": ids, "x": draw.normal(size=(rows, 5)).astype(np.float32)}
    labels = (host["x"][:, 0] > 0).astype(np.int64)
    other = {"ids": ids, "x": draw.normal(size=(rows, 3)).astype(np.float32)}
    return Source({**host, "y": labels}, other, train, 2)


def joined(job: Path) -> Path:
    command = [sys.executable, "-m", "scoreboard.shared.joined", str(job)]
    subprocess.run(command, check=True, cwd=ROOT)
    return job


@pytest.mark.parametrize("change", CHANGES)
def test_rows_in_common_are_found_by_their_ids(data: Source, change: str) -> None:
    theirs = CHANGES[change](data.collaborator, data.train)
    assert list(theirs["ids"]) != list(data.collaborator["ids"])
    right = aligned(data, change)
    assert list(right.host["ids"]) == list(right.collaborator["ids"])
    assert right.train % BATCH == 0
    assert {each[0] for each in right.host["ids"][: right.train]} == {"a"}
    assert {each[0] for each in right.host["ids"][right.train :]} == {"b"}
    where = {each: row for row, each in enumerate(theirs["ids"])}
    rows = [where[each] for each in right.collaborator["ids"]]
    assert np.array_equal(theirs["x"][rows], right.collaborator["x"])


@pytest.mark.slow
def test_the_judge_tells_equal_runs_from_others(data: Source, tmp_path: Path) -> None:
    one = joined(make_job(tmp_path / "one", data, "x", 1))
    same = joined(make_job(tmp_path / "same", data, "x", 1))
    longer = joined(make_job(tmp_path / "longer", data, "x", 2))
    assert difference(same, one) == {"exact": True, "largest_difference": 0.0}
    told = difference(longer, one)
    assert told["exact"] is False
    assert told["largest_difference"] > 0
    assert difference(make_job(tmp_path / "never", data, "x", 1), one)["exact"] is None
    assert 0.4 < (accuracy(longer) or 0) <= 1
    assert (milliseconds(longer) or 0) > 0


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("row_missing", marks=pytest.mark.long),
        pytest.param("other_order", marks=pytest.mark.long),
        pytest.param("", marks=pytest.mark.long),
    ],
)
def test_heterofed_trains_the_joined_model(
    data: Source, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conductor, "python_of", lambda _system: sys.executable)
    job = make_job(tmp_path / "split", data, "x", 2, change)
    with conductor.running("heterofed", job) as run:
        assert run.wait(120) == 0, (job / "host.log").read_text()[-2000:]
    right = aligned(data, change) if change else data
    assert difference(job, joined(make_job(tmp_path / "joined", right, "x", 2)))["exact"]
    assert list(conductor.marked(run.mark("host"))) == []


def test_the_results_are_whole_and_the_picture_is_theirs() -> None:
    measured = results.read()
    for name, each in measured.items():
        assert set(each["speed"]) <= set(results.DATA), name
        assert set(each["faults"]) <= set(FAULTS) == set(tables.FAULTS), name
        assert each["versions"]["torch"]
    assert render.is_current(measured)
    more = {"speed": {"mnist": [run(9.0, 1.0, 1.0)]}}
    assert not render.is_current({**measured, "flower": more})


def run(ms: float, *joined_ms: float) -> dict[str, Any]:
    counts = {"bytes_per_row": 80.0, "accuracy": 0.5, "joined_accuracy": 0.5, "steps": 100}
    return {**counts, "ms": ms, "joined_ms": list(joined_ms), "exact": True, "load": [1.0, 2.0]}


def test_a_run_for_whose_time_the_machine_had_other_work_has_no_ratio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unsteady, steady = run(30.0, 10.0, 100.0), run(30.0, 9.0, 11.0)
    loaded = {**steady, "load": [results.QUIET / 2, results.QUIET * 2]}
    assert results.ratios({"speed": {"mnist": [unsteady, steady, loaded]}}, "mnist") == [3.0]
    measured = {name: {"speed": {"mnist": [unsteady]}} for name in results.SYSTEMS}
    assert render.shown(measured) == {}
    monkeypatch.setattr(tables, "read", lambda: measured)
    (ratio,) = [line for line in tables.speed().splitlines() if "ratio" in line]
    assert ratio.count(tables.NOT_MEASURED) == len(results.SYSTEMS)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"status": 0, "exact": True}, "right rows"),
        ({"status": 0, "exact": False}, "wrong rows"),
        ({"status": 0, "exact": None}, "no model"),
        ({"status": 1, "exact": None}, "exit status 1"),
        ({"status": None, "exact": None}, "no end"),
    ],
)
def test_a_cell_says_what_was_found(found: dict[str, Any], says: str) -> None:
    assert says in tables.paired(found)
