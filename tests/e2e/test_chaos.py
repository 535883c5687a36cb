"""Parties are killed and their network cut, and nothing but time is lost: a short chaos bench."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def bench(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=590,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("collaborators", [1, 3])
def test_kills_and_cuts_change_nothing(collaborators: int, mnist: Path) -> None:
    shown = bench(
        *("benchmarks.chaos", "--kills", "2", "--cuts", "20", "--rounds", "8", "--images", "600"),
        *("--collaborators", str(collaborators), "--seed", "2", "--data", str(mnist)),
    )
    assert shown["identical"] is True
    assert shown["kills"] >= 2
    assert shown["cuts"] >= 20
    # How long the disturbed run took is for a quiet machine to say; it may even be less.
    assert isinstance(shown["lost_s"], float)
    assert shown["resumes"] >= 0


def test_the_price_of_checkpoints_is_measured(mnist: Path) -> None:
    shown = bench(
        *("benchmarks.checkpoint", "--rounds", "2", "--repeats", "1", "--images", "600"),
        *("--data", str(mnist)),
    )
    assert 0 < shown["share"] < 1
    assert shown["kept_s"] > 0
    assert shown["bare_s"] > 0


def test_the_price_of_the_link_is_measured(mnist: Path) -> None:
    shown = bench(
        *("benchmarks.link", "--rounds", "1", "--repeats", "1", "--images", "600"),
        *("--data", str(mnist)),
    )
    assert shown["link_s"] > 0
    assert shown["bare_s"] > 0
