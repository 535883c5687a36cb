"""One run as the page shows it: its journal, its status, and what was measured of leaks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from heterofed.report import kept
from heterofed.report.figures import metric_sets
from heterofed.report.model import Curve, Epsilon, Figure, LeakFound, MetricSet
from heterofed.report.privacy import epsilons, leak_figures, leaks
from heterofed.report.sources import MAX_MESSAGE, Sources, number, shown
from heterofed.reporting.journal_records import FILE
from heterofed.reporting.results import STATUS, SUMMARY
from heterofed.watch.runs import Found
from heterofed.watch.state import RunState
from heterofed.watch.tail import Tail

Life = Literal["running", "gone", "finished", "failed", "interrupted", "unknown"]
"""How the last launch stands; `gone`: it says that it runs, and no process of it is here."""

MEASURED = ("leakage.csv", "privacy.csv")


@dataclass(slots=True)
class Seen:
    """What there is to see of a run.

    Attributes:
        task, party: as its folders are called.
        version: a number that grows whenever anything else changes.
        life: how the last launch stands.
        state: as its journal tells it.
        status, summary: as in the files of these names.
        message: the text of an error of heterofed's own; empty where there is none.
        leaks, leak_figures, epsilons: what was measured of leaks so far.
        sets: the metrics sets of a run that kept no journal.
    """

    task: str
    party: str
    version: int = 0
    life: Life = "unknown"
    state: RunState = field(default_factory=RunState)
    status: kept.Status = field(default_factory=kept.Status)
    summary: kept.Summary = field(default_factory=kept.Summary)
    message: str = ""
    leaks: list[LeakFound] = field(default_factory=list)
    leak_figures: list[Figure] = field(default_factory=list)
    epsilons: list[Epsilon] = field(default_factory=list)
    sets: list[MetricSet] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come of the last launch."""
        return self.life not in ("running", "unknown")

    @property
    def rounds(self) -> int:
        """The rounds that are trained."""
        if self.state.rounds or self.summary.rounds:
            return max(self.state.rounds, default=0) or self.summary.rounds
        # The Host alone notes rounds; at others, the one that the status names is not over.
        return self.state.completed if self.state.run else max(0, self.status.round)

    @property
    def planned(self) -> int:
        """The rounds of the task, or 0 where that is not known."""
        planned = number(self.status.plan.get("max_rounds"))
        return self.state.planned or int(planned or 0)

    @property
    def averages(self) -> bool:
        """Whether the models of parties with the same columns are averaged."""
        return bool(self.status.plan.get("averaging"))

    def limit(self, name: str) -> float | None:
        """A limit of this party's own, such as `max_epsilon`; None where it has none."""
        return number(self.status.settings.get(name))


class WatchedRun:
    """A run that is looked at again and again.

    Args:
        found: the run.
        clock: seconds since 1970.
    """

    def __init__(self, found: Found, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = found.folder, clock
        self._tail = Tail(found.folder / FILE)
        self._stamps: dict[str, tuple[int, int] | None] = {}
        self.seen = Seen(shown(found.task), shown(found.party))

    def look(self) -> Seen:
        """Take in what is new, and return what there is to see now."""
        seen, sources = self.seen, Sources(self._folder)
        changed = self._tail.advance()
        seen.state = self._tail.state
        if self._is_new((STATUS,)):
            # The file is replaced at once, so it is there whole; a damaged one changes nothing.
            seen.status = sources.struct(STATUS, kept.Status) or seen.status
            seen.message = shown((seen.status.error or kept.Error()).message or "", MAX_MESSAGE)
            changed = True
        if self._is_new((SUMMARY,)):
            seen.summary = sources.struct(SUMMARY, kept.Summary) or kept.Summary()
            changed = True
        if self._is_new(MEASURED):
            seen.leaks, seen.leak_figures = leaks(sources), leak_figures(sources)
            seen.epsilons = [_with_limit(each, seen) for each in epsilons(sources)]
            changed = True
        life = life_of(seen.status, seen.summary)
        if life != seen.life:
            seen.life, changed = life, True
        if changed:
            seen.version += 1
            # A party of a horizontal task has numbers of its own; of others, there are none yet.
            if not seen.state.rounds and (seen.averages or (seen.is_over and not seen.sets)):
                seen.sets = metric_sets(sources)
        return seen

    def _is_new(self, names: Sequence[str]) -> bool:
        """Whether any of these files is another one than when this was asked last."""
        stamps = {name: _stamp(self._folder / name) for name in names}
        new = any(self._stamps.get(name) != stamp for name, stamp in stamps.items())
        self._stamps |= stamps
        return new


def life_of(status: kept.Status, summary: kept.Summary) -> Life:
    """How the last launch stands. The folder of an older run, which a newer one has renamed, has a
    summary alone.
    """
    match status.state:
        case "finished" | "failed" | "interrupted":
            return status.state
        case "running":
            return "running" if _runs_here(status.process) else "gone"
        case _:
            return "finished" if summary.run else "unknown"


def _with_limit(epsilon: Epsilon, seen: Seen) -> Epsilon:
    """The guarantee with this party's own limit as a second line of its figure."""
    limit, figure = seen.limit("max_epsilon"), epsilon.figure
    if limit is None or figure is None:
        return epsilon
    first, last = figure.curves[0].points[0][0], figure.curves[0].points[-1][0]
    curve = Curve("limit (max_epsilon)", [(first, limit), (last, limit)])
    most = max(limit, *(value for _, value in figure.curves[0].points))
    return msgspec.structs.replace(
        epsilon,
        figure=msgspec.structs.replace(figure, curves=[*figure.curves, curve], y_span=(0.0, most)),
    )


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _runs_here(process: int) -> bool:
    """Whether a process of this number runs on this machine; where that is unknown, it may."""
    if process <= 0 or os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return not _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Whether a process was killed and only its parent has not heard of it yet."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[:1] == ["Z"]
