"""The benchmarks run, and print what they promise; how fast is for a quiet machine to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import wan
from tests.e2e.processes import ROOT
from tests.tabular.people import loans

pytestmark = [pytest.mark.timeout(320)]


def printed(module: str, *options: str) -> dict[str, Any]:
    """What a benchmark prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--json", "--repeats", "1", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.long
@pytest.mark.parametrize("secure", [False, True])
def test_clients(secure: bool, mnist: Path) -> None:
    options = ["--data", str(mnist), "--images", "600", "--rounds", "2", "--parties", "3"]
    result = printed("clients", *options, *(["--secure"] if secure else []))
    assert result["ratio"] == pytest.approx(result["round_s"] / result["hooks_s"], rel=0.05)
    assert result["ratio"] > 1
    assert result["rest_ms"] > 0


@pytest.mark.long
def test_training(mnist: Path) -> None:
    options = ("--data", str(mnist), "--limit", "1280", "200", "--staleness", "0", "4")
    result = printed("training", *options)
    for key in ("joined_s", "joined_1thread_s", "exact_s", "stale4_s", "exact_ratio"):
        assert result[key] > 0, key
    assert result["stale4_ratio"] == pytest.approx(result["stale4_s"] / result["joined_s"])
    assert 0 < result["overhead_bytes_per_message"] <= 512
    assert result["bytes_per_batch"]["features"] >= 128 * 10 * 4


@pytest.mark.long
def test_tabular(tmp_path: Path) -> None:
    bank, shop = loans(600)
    both = bank.merge(shop, left_on="customer", right_on="client").fillna(0)
    both["y"] = (both["defaulted"] == "yes").astype(int)
    named = both.rename(columns={"customer": "id"})
    named[["id", "risk", "income", "y"]].to_csv(tmp_path / "guest.csv", index=False)
    named[["id", "spend", "since"]].to_csv(tmp_path / "host.csv", index=False)
    result = printed("tabular", "--data", str(tmp_path), "--rounds", "2", "--made", "5000")
    for key in ("exact_ratio_256", "exact_ratio_4096", "stale4_ratio_256"):
        assert result[key] > 0, key
    assert {
        "train_exact_256",
        "train_joined_256",
        "predict_exact_256",
        "train_made_exact_4096",
    } <= {name for name, rate in result["rows_per_s"].items() if rate > 0}


@pytest.mark.long
def test_wan(mnist: Path) -> None:
    options = ("--data", str(mnist), "--limit", "1280", "200", "--rounds", "1", "--rtt-ms", "20")
    result = printed("wan", *options)
    for key in ("loopback_s", "sync_s", "auto_s", "auto_ratio"):
        assert result[key] > 0, key
    assert result["sync_s"] > 10 * 0.02  # ten batches, a round trip each
    assert 0 <= result["auto_accuracy"] <= 1
    assert 0 <= result["sync_accuracy"] <= 1
    assert result["auto_int8_mb"] < result["auto_fp16_mb"] < result["auto_mb"]


def test_links_are_shown_as_a_table() -> None:
    taken: dict[str, Any] = {"loopback_s": 7.0, "auto_s": 8.04, "sync_s": 61.0}
    taken |= {"auto_staleness": [9], "load_before": 0.4, "load_after": 1.6}
    lines = [{**line, **taken} for line in wan.GRID]
    rows = wan.table(lines).splitlines()
    assert len(rows) == 2 + len(wan.GRID)
    assert rows[3].startswith("| 5 ms, 100 Mbit/s | 7.0 s | 8.0 s | 61.0 s | 9 | 7.6 | 0 to 2 |")
    assert rows[-1].startswith("| 50 ms, 100 Mbit/s, jitter 20 ms, 0.1% lost |")


@pytest.mark.long
@pytest.mark.slow
def test_parties() -> None:
    result = printed("parties", "--counts", "1", "2", "--batches", "20")
    assert set(result["ms_per_batch"]) == {"1", "2"}
    assert result["first_ms"] > 0


@pytest.mark.long
def test_step() -> None:
    options = ("--parties", "1", "2", "--batches", "20", "--rounds", "2", "--causes")
    result = printed("step", *options)
    for key in ("host_us", "collaborator_us", "host_quiet_us", "wall_us"):
        assert result[key] > 0, key
    assert "per_extra_collaborator_us" in result
    assert set(result["by_parties"]) == {"1", "2"}
    for causes in result["by_cause"].values():
        assert {"random streams", "ZeroMQ", "the models", "everything else"} <= set(causes)


@pytest.mark.long
def test_convergence(mnist: Path, tmp_path: Path) -> None:
    options = ["--data", str(mnist), "--limit", "640", "100", "--rounds", "1", "--seeds", "1"]
    options += ["--staleness", "0", "2"]
    picture = tmp_path / "staleness.svg"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.convergence", *options, "--plot", str(picture)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert picture.read_text().startswith("<?xml")


@pytest.mark.long
def test_serving() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "--json", "--rows", "500", "--seconds", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for key in ("p50_ms", "p99_ms", "requests_per_s", "p99_under_load_ms", "batch_rows_per_s"):
        assert result[key] > 0, key


@pytest.mark.long
def test_growth(tmp_path: Path) -> None:
    """Memory is flat after the first rounds, and a picture is drawn from kept figures."""
    options = ("--only", "collaborators", "rounds", "--rounds", "400", "--every", "20")
    result = printed("growth", *options)
    assert all(each > 0 for each in result["collaborators"].values())
    assert result["rounds"]["course"][-1]["round"] == 400
    # Each party remembers the last thousand calls of a hook, which it has after 260 rounds.
    late = [each["objects"] for each in result["rounds"]["course"] if each["round"] >= 300]
    assert late[-1] - late[0] < 100
    kept, picture = tmp_path / "growth.json", tmp_path / "growth.svg"
    kept.write_text(json.dumps({**result, "width": {"16": 1.0}, "rows": {"32": 1.0}}))
    command = [sys.executable, "-m", "benchmarks.growth", "--from-json", str(kept)]
    subprocess.run([*command, "--plot", str(picture)], cwd=ROOT, timeout=120, check=True)
    assert picture.read_text().startswith("<?xml")
