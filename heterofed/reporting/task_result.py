"""The `TaskResult` that `launch_task` returns: what came of a task at this party."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heterofed.errors import ConfigError
from heterofed.events import Event, PhaseEnded, without_progress
from heterofed.metrics import NO_METRICS
from heterofed.protocol.plan import Fusion, Plan
from heterofed.reporting.costs import LinkQuality, PhaseCost
from heterofed.reporting.notebook_card import card_of
from heterofed.reporting.summary import summary_of
from heterofed.reporting.units import seconds_shown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(slots=True, repr=False)
class TaskResult:
    """The result of a task at this party.

    Attributes:
        task_id: the id of the task.
        party: the feature key of this party.
        run: the id of the run, equal at every party: 32 hexadecimal digits.
        folder: the results folder.
        rounds: the number of rounds that were trained.
        best_round: the round whose models `mark_best` kept, or 0 for none.
        fusion: whether the Host received each Collaborator's features or only their sum.
        sites: the feature keys of the sites of each role that has some, by role.
        ids: the number of ids in the intersection.
        own_ids: the number of ids of this party, or 0 if they were not counted.
        smallest_ids: the number of ids of the party that has the fewest, as far as this party was
            told; 0 if no intersection was computed.
        train_rows: the number of common ids that are for training.
        test_rows: the number of common ids that are for tests.
        psi: the `protocol` of the intersection and the `backend` that computed this party's part.
            It is empty if no intersection was computed.
        rehearsal: the findings of a dry run at the Host; None if the task was trained.
        metrics: the path of each metrics set's CSV, by name of the set.
        models: the path of each saved model, by name.
        phases: the cost of each phase, by name.
        links: what was measured of the link to each party, by party.
        leak_seconds: the part of `seconds` that the leak report took.
        leaks: the worst findings of the leak report, as one line of text per party.
        report: the path of `report.html`, or None if none was written.
        seconds: the duration of `launch_task` in seconds.
        bytes_sent: the number of bytes that this party sent, including those between phases.
        bytes_received: the number of bytes that this party received.
    """

    task_id: str
    party: str
    folder: Path
    run: str = ""
    rounds: int = 0
    best_round: int = 0
    fusion: Fusion = "separate"
    sites: dict[str, list[str]] = field(default_factory=dict)
    ids: int = 0
    own_ids: int = 0
    smallest_ids: int = 0
    train_rows: int = 0
    test_rows: int = 0
    psi: dict[str, str] = field(default_factory=dict)
    rehearsal: dict[str, Any] | None = None
    metrics: dict[str, Path] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)
    phases: dict[str, PhaseCost] = field(default_factory=dict)
    links: dict[str, LinkQuality] = field(default_factory=dict)
    leak_seconds: float = 0.0
    leaks: list[str] = field(default_factory=list)
    report: Path | None = None
    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0

    @without_progress
    def note(self, event: Event) -> None:
        """Add an event to the result; this method is a callback."""
        if isinstance(event, PhaseEnded):
            cost = self.phases.setdefault(event.phase, PhaseCost())
            cost.seconds += event.seconds
            cost.bytes_sent += event.bytes_sent
            cost.bytes_received += event.bytes_received
            cost.compute += event.compute
            cost.encode += event.encode
            for party, seconds in event.waits.items():
                cost.waits[party] = cost.waits.get(party, 0.0) + seconds

    def note_plan(self, plan: Plan) -> None:
        """Note what the parties agreed on that predictions need to know."""
        self.fusion = plan.fusion
        self.sites = {each.role: list(each.parties) for each in plan.sites}

    def core(self) -> dict[str, Any]:
        """Return the fields that predictions and exports need, as plain JSON types."""
        return {
            "task_id": self.task_id,
            "party": self.party,
            "run": self.run,
            "folder": str(self.folder),
            "rounds": self.rounds,
            "best_round": self.best_round,
            "fusion": self.fusion,
            **({"sites": self.sites} if self.sites else {}),
            "ids": self.ids,
            "own_ids": self.own_ids,
            "smallest_ids": self.smallest_ids,
            "train_rows": self.train_rows,
            "test_rows": self.test_rows,
            "psi": self.psi,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        return self.core() | {
            "seconds": round(self.seconds, 3),
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "leak_seconds": round(self.leak_seconds, 3),
            "leaks": self.leaks,
            "metrics": {name: str(path) for name, path in self.metrics.items()},
            "models": {name: str(path) for name, path in self.models.items()},
            "phases": {
                name: {
                    "seconds": round(cost.seconds, 3),
                    "bytes_sent": cost.bytes_sent,
                    "bytes_received": cost.bytes_received,
                    "compute_seconds": round(cost.compute, 3),
                    "encode_seconds": round(cost.encode, 3),
                    "wait_seconds": {party: round(each, 3) for party, each in cost.waits.items()},
                }
                for name, cost in self.phases.items()
            },
            "links": {party: _rounded(each) for party, each in self.links.items()},
        }

    @property
    def last(self) -> dict[str, dict[str, float | str]]:
        """The last row of each metrics set, by name of the set, with numbers converted to float."""
        return {name: rows[-1] for name, rows in self._rows().items() if rows}

    def frame(self, name: str | None = None) -> pd.DataFrame:
        """Return a metrics set as a pandas DataFrame, with one row per `append_metrics_item`.

        Args:
            name: the name of the set. None stands for the user's only set, or for `train` if the
                user declared none.

        Raises:
            ConfigError: there is no such set, or there are several and no name was given.
        """
        import pandas

        rows = self._rows()
        own = [each for each in rows if each != "train"]
        chosen = name or (own[0] if len(own) == 1 else "train")
        if chosen not in rows or (name is None and len(own) > 1):
            raise ConfigError(f"frame: there are {', '.join(rows) or 'no metrics'}; name one")
        return pandas.DataFrame(rows[chosen])

    def _rows(self) -> dict[str, list[dict[str, float | str]]]:
        """Return the rows of each metrics set of the models that has a file."""
        found = {}
        for name, path in self.metrics.items():
            if name not in NO_METRICS and path.exists():
                with path.open(newline="", encoding="utf-8") as file:
                    found[name] = [
                        {key: _number(value) for key, value in row.items()}
                        for row in csv.DictReader(file)
                    ]
        return found

    def __repr__(self) -> str:
        """Return one line with the task and its last metrics."""
        shown = [
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for row in self.last.values()
            for key, value in row.items()
            if key != "round"
        ]
        what = f"{self.party}: task {self.task_id}, {self.rounds} rounds in {self.seconds:.1f} s"
        return f"<{', '.join([what, *shown])}; {self.folder}>"

    def _repr_html_(self) -> str:
        """Return the result for a notebook."""
        note = f"{self.rounds} rounds in {seconds_shown(self.seconds)}"
        if self.ids:
            note += f", {self.ids:,} common ids"
        files = [self.report, *self.metrics.values(), *self.models.values()]
        return card_of(
            f"{self.party}: task {self.task_id}",
            note,
            last=self.last,
            leaks=self.leaks,
            phases=self.phases,
            files=[each for each in files if each is not None],
        )

    def summary(self) -> str:
        """Return the summary that the console prints: costs by phase, leaks, and the files."""
        return summary_of(
            f"{self.party}: task {self.task_id} done in {seconds_shown(self.seconds)}",
            phases=self.phases,
            leaks=self.leaks,
            folder=self.folder,
            files=[*self.metrics.values(), *self.models.values()],
        )


def _rounded(link: LinkQuality) -> dict[str, float | None]:
    return {
        name: None if value is None else round(value, 6) for name, value in asdict(link).items()
    }


def _number(text: str) -> float | str:
    """Convert a field of a CSV file to a number if it holds one."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text
