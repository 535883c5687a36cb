"""Makes the tables of the scoreboard's page from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from docs.generator.markdown import table
from scoreboard.render import PICTURE, shown
from scoreboard.results import DATA, SYSTEMS, ratio, read, runs, timed

PACKAGES = {"heterofed": "heterofed", "nvflare": "nvflare", "flower": "flwr"}
NOT_MEASURED = "not measured"
NEVER_QUIET = "No run so far had a machine that was quiet enough, so there are no times."
ALT = "Time of a training step as a multiple of the joined model's; the tables have the numbers."

System = dict[str, Any]
Run = dict[str, Any]


def versions_table() -> str:
    """What ran, and when."""
    rows = [
        [SYSTEMS[name], told[PACKAGES[name]], told["python"], told["torch"], each["date"]]
        for name, each in read().items()
        if (told := each.get("versions"))
    ]
    return table(["", "version", "Python", "PyTorch", "measured"], iter(rows))


def speed() -> str:
    """The picture, if there are ratios, and a table for each data set with any run."""
    systems = read()
    tables = [
        f"**{title}**\n\n{_table({each: _of_runs(data, say) for each, say in SPEED.items()})}"
        for data, title in DATA.items()
        if any(runs(system, data) for system in systems.values())
    ]
    picture = f"![{ALT}](../images/{PICTURE.name})" if shown(systems) else NEVER_QUIET
    return "\n\n".join([picture, *tables])


def faults_table() -> str:
    """What happens when something goes wrong."""
    return _table({title: _of_fault(fault, say) for fault, (title, say) in FAULTS.items()})


def _table(rows: dict[str, Callable[[System], str]]) -> str:
    systems = read().values()
    cells = ([title, *map(say, systems)] for title, say in rows.items())
    return table(["", *SYSTEMS.values()], cells)


def _of_runs(data: str, say: Callable[[list[Run]], str]) -> Callable[[System], str]:
    def cell(system: System) -> str:
        try:
            return say(runs(system, data))
        except statistics.StatisticsError:  # there is no run, or none with this figure
            return NOT_MEASURED

    return cell


def _of_fault(fault: str, say: Callable[[Run], str]) -> Callable[[System], str]:
    def cell(system: System) -> str:
        found = system.get("faults", {}).get(fault)
        if found is None:
            return NOT_MEASURED
        return "the run did not come so far" if "error" in found else say(found)

    return cell


def _median(measured: list[Run], field: str) -> float:
    return float(statistics.median(run[field] for run in measured if run[field] is not None))


def _joined_ms(measured: list[Run]) -> float:
    return float(statistics.median(statistics.mean(run["joined_ms"]) for run in measured))


def _between(figures: list[float]) -> str:
    return f"{statistics.median(figures):.1f} ({min(figures):.1f} to {max(figures):.1f})"


def _exact(measured: list[Run]) -> str:
    if not measured:
        return NOT_MEASURED
    return "yes" if all(run["exact"] for run in measured) else "**no**"


SPEED: dict[str, Callable[[list[Run]], str]] = {
    "ratio to the joined model": lambda each: _between(list(map(ratio, timed(each)))),
    "a step, ms": lambda each: f"{_median(timed(each), 'ms'):,.1f}",
    "the joined model's step then, ms": lambda each: f"{_joined_ms(timed(each)):,.1f}",
    "rows per second": lambda each: f"{128_000 / _median(timed(each), 'ms'):,.0f}",
    "load then": lambda each: _between([load for run in timed(each) for load in run["load"]]),
    "bytes per row": lambda each: f"{_median(each, 'bytes_per_row'):,.0f}",
    "same weights as the joined model, to the bit": _exact,
    "accuracy, and the joined model's": lambda each: (
        f"{_median(each, 'accuracy'):.4f}, {_median(each, 'joined_accuracy'):.4f}"
    ),
    "steps of a run; runs, timed runs": lambda each: (
        f"{_median(each, 'steps'):.0f}; {len(each)}, {len(timed(each))}"
    ),
}


def killed(found: Run) -> str:
    """Who noticed when, and what a new start of the party did."""
    if found["noticed_s"] is None:
        noticed = "the Host's command waited on, for 150 s and more"
    else:
        noticed = f"the Host's command ended after {found['noticed_s']:.0f} s, {_status(found)}"
    if found["status_again"] != 0:
        return f"{noticed}; started again, the run did **not** come to its end"
    total = found["steps_before"] + found["steps_again"]
    bits = "with the same bits" if found["exact"] else "with **other weights**"
    return f"{noticed}; started again, it came to its end after {total} steps in all, {bits}"


def _status(found: Run) -> str:
    return f"exit status {found['status']}" if found["status"] else "**exit status 0**"


def ended(found: Run) -> str:
    """How a run ended that should have gone through."""
    return _failed(found) or ("went on; " + ("the same bits" if found["exact"] else OTHER))


def paired(found: Run) -> str:
    """Whether the right rows met."""
    if found["exact"]:
        return "the right rows met: the bits of the joined model of the common rows"
    return _failed(found) or "**wrong rows met, and nothing said so** (exit status 0)"


OTHER = "**other weights**"


def _failed(found: Run) -> str:
    """Say that a run did not make a model, if so."""
    if found["status"] is None:
        return "**no end** in the time of a run"
    if found["status"]:
        return f"failed, exit status {found['status']}"
    return "**no model, exit status 0**" if found["exact"] is None else ""


FAULTS: dict[str, tuple[str, Callable[[Run], str]]] = {
    "kill": ("`kill -9` of the Collaborator", killed),
    "cut": ("its link stalls for 10 s and is cut", ended),
    "stranger": ("a stranger talks to the port", ended),
    "other_order": ("its file is in another order", paired),
    "row_missing": ("its file lacks one row", paired),
}
