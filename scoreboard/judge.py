"""Compares what a run left with what the joined model left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

PARTS = ("host", "collaborator", "top")


def difference(split: Path, joined: Path) -> dict[str, Any]:
    """Return whether all weights have the same bits, and the largest difference of one."""
    largest, same = 0.0, True
    for part in PARTS:
        ours, theirs = (folder / f"weights-{part}.npz" for folder in (split, joined))
        if not ours.exists():
            return {"exact": None, "largest_difference": None}
        with np.load(ours) as here, np.load(theirs) as there:
            for name in there.files:
                same = same and here[name].tobytes() == there[name].tobytes()
                largest = max(largest, float(np.abs(here[name] - there[name]).max()))
    return {"exact": same, "largest_difference": largest}


def accuracy(folder: Path) -> float | None:
    """Return the share of test rows whose class has the highest score."""
    scores = folder / "scores.npy"
    if not scores.exists():
        return None
    with np.load(folder / "host.npz") as data:
        labels = data["y"][-len(np.load(scores)) :]
    return float((np.load(scores).argmax(axis=1) == labels).mean())


def milliseconds(folder: Path) -> float | None:
    """Return the median time of a step, without the first ones."""
    path = folder / "steps.csv"
    times = np.loadtxt(path, ndmin=1) if path.exists() else np.array([])
    gaps = np.diff(times)
    kept = gaps[min(5, len(gaps) // 2) :]
    return float(np.median(kept) * 1000) if len(kept) else None
