"""The list of runs: what their status files say, without reading their journals."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from heterofed.report import kept
from heterofed.report.sources import Sources, number, shown
from heterofed.report.view import LEADING
from heterofed.reporting.results import STATUS, SUMMARY
from heterofed.reporting.units import seconds_shown, value_shown
from heterofed.watch import words
from heterofed.watch.run import Life, life_of
from heterofed.watch.runs import Found


class Line(NamedTuple):
    """A run in the list.

    Attributes:
        key: names it in addresses, quoted.
        task, party: as its folders are called.
        life, tone: how it stands, with the class of the colour.
        rounds: how many are trained, of how many; or that none are.
        metric: the last value of the metric that says most.
        age: how long ago its status was written.
    """

    key: str
    task: str
    party: str
    life: str
    tone: str
    rounds: str
    metric: str
    age: str


class List:
    """The lines of runs; a status file is read again only when it was written anew."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[float, tuple[kept.Status, kept.Summary]]] = {}

    def lines(self, runs: list[Found], now: float) -> list[Line]:
        """A line for each run."""
        return [self._line(each, now) for each in runs]

    def _line(self, found: Found, now: float) -> Line:
        status, summary = self._said(found)
        life: Life = life_of(status, summary)
        return Line(
            key=key_of(found),
            task=shown(found.task),
            party=shown(found.party),
            life=words.LIVES[life],
            tone=words.TONES.get(life, "open"),
            rounds=_rounds(status, summary, life),
            metric=_metric(status),
            age=f"{seconds_shown(max(0.0, now - found.changed))} ago" if _is_old(life) else "now",
        )

    def _said(self, found: Found) -> tuple[kept.Status, kept.Summary]:
        known = self._read.get(found.folder)
        if known is not None and known[0] == found.changed:
            return known[1]
        sources, summary = Sources(found.folder), kept.Summary()
        status = sources.struct(STATUS, kept.Status)
        if status is None:  # the folder of an older run, which a newer one has renamed
            summary = sources.struct(SUMMARY, kept.Summary) or summary
        said = status or kept.Status(), summary
        self._read[found.folder] = found.changed, said
        return said


def _rounds(status: kept.Status, summary: kept.Summary, life: Life) -> str:
    """The trained rounds, of the planned ones; nothing for a task that trains none."""
    planned = number(status.plan.get("max_rounds"))
    done = max(0, status.round) or summary.rounds
    if not done and not planned and life == "finished":
        return "no training"
    return f"{done:,}" + (f" of {planned:,.0f}" if planned else "")


def key_of(found: Found) -> str:
    """What names a run in an address."""
    return f"{quote(found.task, safe='')}/{quote(found.party, safe='')}"


def chosen(lines: list[Line]) -> dict[str, str]:
    """The two runs compared by default: the newest one, and the one before it of the same party."""
    if not lines:
        return {}
    first, *others = lines
    before = [each for each in others if each.party == first.party] or others or lines
    return {"one": first.key, "other": before[0].key}


def _is_old(life: Life) -> bool:
    return life != "running"


def _metric(status: kept.Status) -> str:
    values = {name: number(value) for name, value in status.metrics.items() if name != "round"}
    found = {name: value for name, value in values.items() if value is not None}
    name = next((each for each in LEADING if each in found), next(iter(found), ""))
    return f"{shown(name)} {value_shown(found[name])}" if name else ""
