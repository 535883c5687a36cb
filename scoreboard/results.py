"""What was measured: where it is kept, what its systems and data sets are called, and the ratios.

A run of a system stands between two runs of the joined model. Where these two differ much, the
machine had other work for a part of the time, and no ratio is made of that run.
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


def ratios(system: dict[str, Any], data: str) -> list[float]:
    """Return how many times as long as the joined model's a step took, in each steady run."""
    return sorted(
        run["ms"] / statistics.mean(run["joined_ms"])
        for run in runs(system, data)
        if max(run["joined_ms"]) <= STEADY * min(run["joined_ms"])
    )
