"""The results folder of one run, and the account of it that `launch_task` returns.

Everything is written inside the folder; a file appears whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from heterofed.errors import ConfigError
from heterofed.events import Event, PhaseEnded
from heterofed.files import move_aside, own_folder, put_in_place, read, try_folder, writing
from heterofed.metrics import NO_METRICS
from heterofed.protocol.plan import Fusion, PartyName
from heterofed.reporting.console import path_shown
from heterofed.reporting.costs import COLUMNS, Account, shares
from heterofed.reporting.diagnostics import Harmless
from heterofed.reporting.egress import Outbound
from heterofed.reporting.units import bytes_shown, seconds_shown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(slots=True)
class PhaseCost:
    """What one phase cost, over all rounds: seconds, and bytes that left and came.

    Attributes:
        compute, encode, waits: of the seconds, those in hooks, those of turning mail into bytes
            and back, and those of waiting for each party.
    """

    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    compute: float = 0.0
    encode: float = 0.0
    waits: dict[str, float] = field(default_factory=dict)

    @property
    def slowest(self) -> str | None:
        """The party that was waited for longest, where that was a tenth of the time or more."""
        name = max(self.waits, key=self.waits.__getitem__, default=None)
        return name if name is not None and self.waits[name] >= self.seconds / 10 else None


@dataclass(slots=True, repr=False)
class TaskResult:
    """What came of a task at this party.

    Attributes:
        task_id, party: of which task and party.
        run: names the run, the same at every party; 32 hexadecimal digits.
        folder: the results folder.
        rounds: rounds trained.
        best_round: the round whose models `mark_best` kept; 0: none.
        fusion: whether the Host got each Collaborator's features or only their sum.
        ids: size of the intersection.
        own_ids: ids that this party came with; 0 where they were not counted.
        train_rows, test_rows: what the split made of the common ids.
        psi: how it was found: its `protocol` and the `backend` that computed this party's part;
            empty where it was not searched for.
        rehearsal: at the Host what one batch showed, where the task was only rehearsed.
        metrics: path of each metrics set's CSV, by name.
        models: path of each saved model half, by name.
        phases: cost of each phase, by name.
        leak_seconds: what the leak report took, of `seconds`.
        leaks: what the leak report found worst, in plain words, one line per party.
        report: path of `report.html`; None where none was written.
        seconds: of the whole task, from `launch_task` on.
        bytes_sent, bytes_received: of the whole task; between phases a few more travel.
    """

    task_id: str
    party: str
    folder: Path
    run: str = ""
    rounds: int = 0
    best_round: int = 0
    fusion: Fusion = "separate"
    ids: int = 0
    own_ids: int = 0
    train_rows: int = 0
    test_rows: int = 0
    psi: dict[str, str] = field(default_factory=dict)
    rehearsal: dict[str, Any] | None = None
    metrics: dict[str, Path] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)
    phases: dict[str, PhaseCost] = field(default_factory=dict)
    leak_seconds: float = 0.0
    leaks: list[str] = field(default_factory=list)
    report: Path | None = None
    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0

    def note(self, event: Event) -> None:
        """Count an event in; a callback."""
        if isinstance(event, PhaseEnded):
            cost = self.phases.setdefault(event.phase, PhaseCost())
            cost.seconds += event.seconds
            cost.bytes_sent += event.bytes_sent
            cost.bytes_received += event.bytes_received
            cost.compute += event.compute
            cost.encode += event.encode
            for party, seconds in event.waits.items():
                cost.waits[party] = cost.waits.get(party, 0.0) + seconds

    def core(self) -> dict[str, Any]:
        """What predictions and exports need to know of the run, as plain JSON types."""
        return {
            "task_id": self.task_id,
            "party": self.party,
            "run": self.run,
            "folder": str(self.folder),
            "rounds": self.rounds,
            "best_round": self.best_round,
            "fusion": self.fusion,
            "ids": self.ids,
            "own_ids": self.own_ids,
            "train_rows": self.train_rows,
            "test_rows": self.test_rows,
            "psi": self.psi,
        }

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON types."""
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
        }

    @property
    def last(self) -> dict[str, dict[str, float | str]]:
        """The last row of each metrics set, by name of the set; numbers are numbers."""
        return {name: rows[-1] for name, rows in self._rows().items() if rows}

    def frame(self, name: str | None = None) -> pd.DataFrame:
        """A metrics set as a pandas DataFrame, a row per call of `append_metrics_item`.

        Args:
            name: of the set; None: the only one of the user's, else `train`.

        Raises:
            ConfigError: there is no such set, or several and no name.
        """
        import pandas

        rows = self._rows()
        own = [each for each in rows if each != "train"]
        chosen = name or (own[0] if len(own) == 1 else "train")
        if chosen not in rows or (name is None and len(own) > 1):
            raise ConfigError(f"frame: there are {', '.join(rows) or 'no metrics'}; name one")
        return pandas.DataFrame(rows[chosen])

    def _rows(self) -> dict[str, list[dict[str, float | str]]]:
        """Of the metrics of models, those sets that have a file."""
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
        """One line: what ended, and the last metrics."""
        shown = [
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for row in self.last.values()
            for key, value in row.items()
            if key != "round"
        ]
        what = f"{self.party}: task {self.task_id}, {self.rounds} rounds in {self.seconds:.1f} s"
        return f"<{', '.join([what, *shown])}; {self.folder}>"

    def summary(self) -> str:
        """A block of lines for people: what each phase took, what leaked, and where the files are.

        No line but that of the files is longer than fits 60 columns beside a time.
        """
        lines = [f"{self.party}: task {self.task_id} done in {seconds_shown(self.seconds)}"]
        if self.phases:
            lines.append(_row("phase", "time", "sent", "received"))
        lines += [
            _row(
                name,
                seconds_shown(cost.seconds),
                bytes_shown(cost.bytes_sent),
                bytes_shown(cost.bytes_received),
            )
            for name, cost in self.phases.items()
        ]
        if train := self.phases.get("train"):
            spent = shares(train.seconds, train.compute, train.encode, train.waits)
            lines.append(f"  train: {spent}")
            if len(train.waits) > 1 and train.slowest:
                lines.append(f"  slowest party: {train.slowest}")
        lines += [f"  leak: {each}" for each in self.leaks]
        if names := [path.name for path in (*self.metrics.values(), *self.models.values())]:
            lines.append(f"  in {path_shown(self.folder)}/: {', '.join(names)}")
        return "\n".join(lines)


def _row(phase: str, seconds: str, sent: str, received: str) -> str:
    return f"  {phase:<11}{seconds:>11}{sent:>12}{received:>12}"


def _number(text: str) -> float | str:
    """A field of a CSV file as the number that it is of, if any."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def check_name(name: object, what: str) -> str:
    """Check that a name can be a folder.

    Raises:
        ConfigError: not a string, empty, over 128 characters, or with path characters.
    """
    try:
        return msgspec.convert(name, PartyName)
    except msgspec.ValidationError:
        raise ConfigError(
            f"{what} {name!r}: use 1 to 128 letters, digits, '_', '-', '.' or spaces, starting and"
            " ending with a letter, digit or '_' (it names a folder)"
        ) from None


def check_writable(folder: Path) -> None:
    """Check that a folder can be made and written; leaves everything as it was.

    Raises:
        ConfigError: it cannot.
    """
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        try_folder(nearest)
    except OSError as error:
        raise ConfigError(
            f"the results folder {folder} cannot be written ({nearest}: {error.strerror}); give"
            " another results_dir"
        ) from None


def fresh_folder(folder: Path) -> None:
    """Make a run's folder; an older run's moves aside to `<folder>.1`, `.2`, ...

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        (folder / STATUS).unlink(missing_ok=True)  # it is of this launch, and written anew
        move_aside(folder)
        own_folder(folder)
    except OSError as error:
        raise ConfigError(
            f"the results folder {folder} cannot be made ({error.strerror}); give another"
            " results_dir"
        ) from error


def write_whole(path: Path, write: Callable[[BinaryIO], object], *, anywhere: bool = False) -> Path:
    """Write a file so that it appears whole or not at all; gives its path.

    Args:
        path: what lies there is replaced.
        write: gets the open file.
        anywhere: the user chose the folder, so that it may be a link or another user's.

    Raises:
        ResultsError: it cannot be written.
        ConfigError: its folder is a link or belongs to another user.
    """
    with writing(path):
        return put_in_place(path, write, anywhere=anywhere)


def write_costs(result: TaskResult, account: Account) -> Path:
    """Write `comm.csv` into the results folder: messages, bytes and milliseconds by phase, party
    and direction.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(account.table())
    raw = text.getvalue().encode()
    return write_whole(result.folder / "comm.csv", lambda file: file.write(raw))


def write_outbound(result: TaskResult, outbound: Outbound) -> Path:
    """Write `outbound.csv` into the results folder: what left this party, and to whom."""
    path = result.folder / "outbound.csv"
    with writing(path):
        table = outbound.table(path)
    return write_whole(path, lambda file: file.write(table))


SUMMARY, STATUS = "summary.json", "status.json"


def write_summary(result: TaskResult) -> Path:
    """Write `summary.json` into the results folder."""
    text = ""
    with Harmless()("the costs in summary.json"):
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False)
    raw = (text or json.dumps(result.core(), indent=2)).encode()
    return write_whole(result.folder / SUMMARY, lambda file: file.write(raw))


class _Ended(msgspec.Struct):
    run: str = ""


def ended_run(folder: Path) -> bytes | None:
    """Which run ended well in a results folder; None where none did."""
    try:
        return bytes.fromhex(msgspec.json.decode(read(folder / SUMMARY), type=_Ended).run)
    except (OSError, ValueError):
        return None
