"""Draws the picture of the scoreboard."""

from __future__ import annotations

import hashlib
import json
import statistics
from pathlib import Path
from typing import Any

from scoreboard.results import DATA, SYSTEMS, ratios

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "scoreboard.svg"
Shown = dict[str, dict[str, list[float]]]


def shown(measured: dict[str, Any]) -> Shown:
    """Return the ratios of each system that has any, for each data set."""
    found = {
        title: {
            label: each
            for name, label in SYSTEMS.items()
            if (each := ratios(measured.get(name, {}), data))
        }
        for data, title in DATA.items()
    }
    return {title: each for title, each in found.items() if each}


def digest(what: Shown) -> str:
    """Return a digest of what is drawn; the picture carries it, so that an old one is found."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def is_current(measured: dict[str, Any]) -> bool:
    """Return whether the picture is of these results."""
    what = shown(measured)
    if not what:
        return not PICTURE.exists()
    return PICTURE.is_file() and digest(what) in PICTURE.read_text(encoding="utf-8")


def draw(what: Shown) -> None:
    """Write the picture: one panel for each data set, on a logarithmic scale."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams |= {"svg.hashsalt": "scoreboard", "svg.fonttype": "none", "font.size": 11}
    figure, panels = pyplot.subplots(
        len(what), 1, figsize=(7, 1.2 + 1.2 * len(what)), squeeze=False, layout="constrained"
    )
    for panel, (title, found) in zip(panels[:, 0], what.items(), strict=True):
        middle = [statistics.median(each) for each in found.values()]
        bars = panel.barh(list(found), middle, color="#4051b5")
        panel.bar_label(bars, [f" {each:.1f}" for each in middle])
        panel.invert_yaxis()
        panel.set_xscale("log")
        panel.axvline(1, color="#555b75", linewidth=1)
        panel.set_xlim(0.5, 4 * max(middle))
        panel.set_title(title, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel("time of a training step, as a multiple of the joined model's")
    figure.savefig(PICTURE, metadata={"Date": None, "Title": f"results {digest(what)}"})
    pyplot.close(figure)
    # Each line without blanks at its end, as everything else in the repository.
    lines = PICTURE.read_text(encoding="utf-8").splitlines()
    PICTURE.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


def render(measured: dict[str, Any], *, check: bool) -> None:
    """Draw the picture where it is not of these results; without a ratio there is none.

    Raises:
        SystemExit: it is not, and was only to be checked.
    """
    if not is_current(measured):
        if check:
            raise SystemExit(f"{PICTURE} is old: python -m scoreboard render")
        PICTURE.unlink(missing_ok=True)
        if what := shown(measured):
            draw(what)
