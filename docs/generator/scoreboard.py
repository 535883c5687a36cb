"""Makes the tables of the scoreboard's page from `scoreboard/results.json`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from docs.generator.markdown import ROOT, table

SYSTEMS = {"heterofed": "heterofed", "nvflare": "NVIDIA FLARE", "flower": "Flower"}
PACKAGES = {"heterofed": "heterofed", "nvflare": "nvflare", "flower": "flwr"}
DATA = {"mnist": "MNIST halves", "default_credit": "default_credit"}
NOT_MEASURED = "not measured"

Results = dict[str, dict[str, Any]]


def results() -> Results:
    """What was measured, for each system."""
    told: Results = json.loads((ROOT / "scoreboard" / "results.json").read_text())["systems"]
    return {name: told[name] for name in SYSTEMS if name in told}


def speed_table() -> str:
    """A table for each data set: what a step costs, and what comes out."""
    found = results()
    return "\n\n".join(
        f"**{title}**\n\n{_table(found, _speed_rows(name))}"
        for name, title in DATA.items()
        if any(name in each.get("speed", {}) for each in found.values())
    )


def faults_table() -> str:
    """What happens when something goes wrong."""
    found = results()
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        title: (lambda system, fault=fault, say=say: _say(system, fault, say))  # type: ignore[misc]
        for fault, (title, say) in FAULTS.items()
    }
    return _table(found, rows)


def _table(found: Results, rows: dict[str, Callable[[dict[str, Any]], str]]) -> str:
    cells: Iterable[list[str]] = (
        [title, *(say(system) for system in found.values())] for title, say in rows.items()
    )
    return table(["", *(SYSTEMS[name] for name in found)], iter(cells))


def _speed_rows(name: str) -> dict[str, Callable[[dict[str, Any]], str]]:
    def median(system: dict[str, Any], field: str) -> float:
        figures = [run[field] for run in system["speed"][name] if run[field] is not None]
        return float(statistics.median(figures))

    def said(say: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], str]:
        def cell(system: dict[str, Any]) -> str:
            try:
                return say(system)
            except (KeyError, statistics.StatisticsError):  # no run, or none with this figure
                return NOT_MEASURED

        return cell

    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "a step, ms": lambda system: f"{median(system, 'ms'):,.0f}",
        "the joined model's step then, ms": lambda system: f"{median(system, 'joined_ms'):,.0f}",
        "ratio": lambda system: f"{median(system, 'ms') / median(system, 'joined_ms'):.1f}",
        "rows per second": lambda system: f"{128_000 / median(system, 'ms'):,.0f}",
        "bytes per row": lambda system: f"{median(system, 'bytes_per_row'):,.0f}",
        "same weights as the joined model, to the bit": lambda system: (
            "yes" if all(run["exact"] for run in system["speed"][name]) else "**no**"
        ),
        "accuracy, and the joined model's": lambda system: (
            f"{median(system, 'accuracy'):.4f}, {median(system, 'joined_accuracy'):.4f}"
        ),
        "steps; load of the machine": lambda system: (
            f"{median(system, 'steps'):.0f}; {median(system, 'load'):.0f}"
        ),
    }
    return {title: said(say) for title, say in rows.items()}


def versions_table() -> str:
    """What ran, and when."""
    rows = [
        [
            SYSTEMS[name],
            each["versions"][PACKAGES[name]],
            each["versions"]["python"],
            each["versions"]["torch"],
            each["date"],
        ]
        for name, each in results().items()
    ]
    return table(["", "version", "Python", "PyTorch", "measured"], iter(rows))


def _say(system: dict[str, Any], fault: str, say: Callable[[dict[str, Any]], str]) -> str:
    found = system.get("faults", {}).get(fault)
    if found is None:
        return NOT_MEASURED
    return "the run did not come so far" if "error" in found else say(found)


def killed(found: dict[str, Any]) -> str:
    """Who noticed when, and what a new start of the party did."""
    if found["noticed_s"] is None:
        noticed = "the Host's command waited on, for 150 s and more"
    else:
        status = found["status"]
        fair = f"exit status {status}" if status else "**exit status 0**"
        noticed = f"the Host's command ended after {found['noticed_s']:.0f} s, {fair}"
    if found["status_again"] != 0:
        return f"{noticed}; started again, the run did **not** come to its end"
    total = found["steps_before"] + found["steps_again"]
    how = f"started again, it came to its end after {total} steps in all"
    if found["exact"]:
        return f"{noticed}; {how}, with the same bits"
    return f"{noticed}; {how}, with **other weights**"


def ended(found: dict[str, Any]) -> str:
    """How a run ended that should have gone through."""
    if found["status"] is None:
        return "**no end** in the time of a run"
    if found["status"]:
        return f"failed, exit status {found['status']}"
    if found["exact"] is None:
        return "**no model, exit status 0**"
    return "went on; the same bits" if found["exact"] else "went on; **other weights**"


def paired(found: dict[str, Any]) -> str:
    """Whether the right rows met."""
    if found["status"] is None:
        return "**no end** in the time of a run"
    if found["status"]:
        return f"failed, exit status {found['status']}"
    if found["exact"]:
        return "the right rows met: the bits of the joined model of the common rows"
    if found["exact"] is None:
        return "**no model, exit status 0**"
    return "**wrong rows met, and nothing said so** (exit status 0)"


FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "kill": ("`kill -9` of the Collaborator", killed),
    "cut": ("its link stalls for 10 s and is cut", ended),
    "stranger": ("a stranger talks to the port", ended),
    "other_order": ("its file is in another order", paired),
    "row_missing": ("its file lacks one row", paired),
}
