"""What was measured: where it is kept, what its systems and data sets are called, and the ratios.

A run of a system stands between two runs of the joined model. Its time counts only if the machine
had little other work: its load was low, and these two took about as long.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("results.json")
SYSTEMS = {"heterofed": "heterofed", "nvflare": "NVIDIA FLARE", "flower": "Flower"}
DATA = {"mnist": "MNIST halves", "default_credit": "default_credit"}

STEADY = 1.5
"""How many times as slow the joined model may be after a run as before it, or before as after."""

QUIET = 4.0
"""The largest load of the machine at which times count: two cores, and a run keeps both busy."""


def read() -> dict[str, Any]:
    """Return what was measured, for each system."""
    told = json.loads(PATH.read_text()) if PATH.exists() else {}
    return {name: told.get(name, {}) for name in SYSTEMS}


def write(measured: dict[str, Any]) -> None:
    """Keep what was measured."""
    PATH.write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n")


def runs(system: dict[str, Any], data: str) -> list[dict[str, Any]]:
    """Return the runs of a system on a data set."""
    found: list[dict[str, Any]] = system.get("speed", {}).get(data, [])
    return found


def timed(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs whose times count."""
    return [
        run
        for run in measured
        if max(run["load"]) <= QUIET and max(run["joined_ms"]) <= STEADY * min(run["joined_ms"])
    ]


def ratio(run: dict[str, Any]) -> float:
    """Return how many times as long as the joined model's a step of a run took."""
    return float(run["ms"] / statistics.mean(run["joined_ms"]))


def ratios(system: dict[str, Any], data: str) -> list[float]:
    """Return the ratios of the timed runs, sorted."""
    return sorted(map(ratio, timed(runs(system, data))))
