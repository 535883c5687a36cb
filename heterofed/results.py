"""The results folder of one run, and the account of it that `launch_task` returns.

Everything is written inside the folder; a file appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from heterofed.console import megabytes
from heterofed.errors import ConfigError
from heterofed.events import Event, PhaseEnded
from heterofed.plan import PartyName


@dataclass(slots=True)
class PhaseCost:
    """What one phase cost, over all rounds: seconds, and bytes that left and came."""

    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0


@dataclass(slots=True)
class TaskResult:
    """What came of a task at this party.

    Attributes:
        task_id, party: of which task and party.
        folder: the results folder.
        rounds: rounds trained.
        ids: size of the intersection.
        metrics: path of each metrics set's CSV, by name.
        models: path of each saved model half, by name.
        phases: cost of each phase, by name.
        seconds: of the whole task, from `launch_task` on.
        bytes_sent, bytes_received: of the whole task; between phases a few more travel.
    """

    task_id: str
    party: str
    folder: Path
    rounds: int = 0
    ids: int = 0
    metrics: dict[str, Path] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)
    phases: dict[str, PhaseCost] = field(default_factory=dict)
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

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON types."""
        return {
            "task_id": self.task_id,
            "party": self.party,
            "folder": str(self.folder),
            "rounds": self.rounds,
            "ids": self.ids,
            "seconds": round(self.seconds, 3),
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "metrics": {name: str(path) for name, path in self.metrics.items()},
            "models": {name: str(path) for name, path in self.models.items()},
            "phases": {
                name: {
                    "seconds": round(cost.seconds, 3),
                    "bytes_sent": cost.bytes_sent,
                    "bytes_received": cost.bytes_received,
                }
                for name, cost in self.phases.items()
            },
        }

    def summary(self) -> str:
        """A block of lines for people."""
        lines = [f"{self.party}: task {self.task_id} done in {self.seconds:.1f} s"]
        lines += [
            f"  {name:<8}{cost.seconds:8.1f} s   sent {megabytes(cost.bytes_sent):>9}"
            f"   received {megabytes(cost.bytes_received):>9}"
            for name, cost in self.phases.items()
        ]
        lines += [f"  {path}" for path in (*self.metrics.values(), *self.models.values())]
        return "\n".join(lines)


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
        Path(tempfile.mkdtemp(dir=nearest, prefix=".heterofed-")).rmdir()
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
        if folder.exists():
            number = 1
            while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
                number += 1
            folder.rename(aside)
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(
            f"the results folder {folder} cannot be made ({error.strerror}); give another"
            " results_dir"
        ) from error


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Write a file so that it appears whole or not at all; gives its path."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def write_summary(result: TaskResult) -> Path:
    """Write `summary.json` into the results folder."""
    text = json.dumps(result.to_dict(), indent=2).encode()
    return write_whole(result.folder / "summary.json", lambda file: file.write(text))
