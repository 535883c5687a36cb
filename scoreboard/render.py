"""Draws the picture of the scoreboard from `results.json`."""

from __future__ import annotations

import hashlib
import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "scoreboard.svg"
NAMES = {"heterofed": "heterofed", "nvflare": "NVIDIA FLARE", "flower": "Flower"}
TITLES = {"mnist": "MNIST halves", "default_credit": "default_credit"}


def digest(results: dict[str, Any]) -> str:
    """Of what is drawn: the picture carries it, so that an old picture is found."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]


def is_current(results: dict[str, Any]) -> bool:
    """Whether the picture is of these results."""
    return PICTURE.is_file() and digest(results) in PICTURE.read_text(encoding="utf-8")


def ratios(results: dict[str, Any], data: str) -> dict[str, float]:
    """How many times as long as the joined model's a step takes, for each system."""
    return {
        NAMES[name]: statistics.median(run["ms"] / run["joined_ms"] for run in runs)
        for name, each in results["systems"].items()
        if (runs := each.get("speed", {}).get(data))
    }


def draw(results: dict[str, Any]) -> None:
    """Write the picture: one panel for each data set, on a logarithmic scale."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams |= {"svg.hashsalt": "scoreboard", "svg.fonttype": "none", "font.size": 11}
    shown = {title: found for name, title in TITLES.items() if (found := ratios(results, name))}
    figure, panels = pyplot.subplots(
        len(shown), 1, figsize=(7, 1.2 + 1.2 * len(shown)), squeeze=False, layout="constrained"
    )
    for panel, (title, found) in zip(panels[:, 0], shown.items(), strict=True):
        bars = panel.barh(list(found)[::-1], list(found.values())[::-1], color="#4051b5")
        panel.bar_label(bars, [f" {each:.1f}" for each in list(found.values())[::-1]])
        panel.set_xscale("log")
        panel.axvline(1, color="#555b75", linewidth=1)
        panel.set_xlim(0.5, 4 * max(found.values()))
        panel.set_title(title, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel("time of a training step, as a multiple of the joined model's")
    figure.savefig(PICTURE, metadata={"Date": None, "Title": f"results {digest(results)}"})
    # Each line without blanks at its end, as everything else in the repository.
    lines = PICTURE.read_text(encoding="utf-8").splitlines()
    PICTURE.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


def render(results: dict[str, Any], *, check: bool) -> None:
    """Draw the picture where it is not of these results.

    Raises:
        SystemExit: it is not, and was only to be checked.
    """
    if not is_current(results):
        if check:
            raise SystemExit(f"{PICTURE} is old: python -m scoreboard render")
        draw(results)
