"""The benchmark of CURVE runs, and compares like with like."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import curve


@pytest.mark.long
@pytest.mark.slow
def test_both_ways_are_measured(mnist: Path) -> None:
    given = ["--data", str(mnist), "--rounds", "1", "--repeats", "1", "--limit", "300", "60"]
    outcome = curve.measure(curve.parse(given))
    assert len(outcome["socket_seconds"]) == len(outcome["curve_seconds"]) == 1
    ratio = outcome["curve_seconds"][0] / outcome["socket_seconds"][0]
    assert outcome["overhead_percent"] == pytest.approx(100 * (ratio - 1), abs=2)
