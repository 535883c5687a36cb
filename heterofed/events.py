"""The events of a task, as plain data for callbacks such as progress bars and loggers.

A callback is any callable that takes one event. The console of `launch_task` is one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class TaskBegan:
    """The parties have met, and the task begins or goes on.

    It comes after the phase `join`, and once more whenever the parties meet again.

    Attributes:
        task_id: the id of the task.
        party: the feature key of this party.
        host: the feature key of the Host.
        collaborators: the feature keys of the Collaborators, in task order.
        run: the id of the run, 32 hexadecimal digits; it is the same at every party, and the same
            again when the run is resumed.
        folder: the results folder of this party.
    """

    task_id: str
    party: str
    host: str
    collaborators: tuple[str, ...]
    run: str
    folder: Path


@dataclass(frozen=True, slots=True)
class PhaseBegan:
    """A phase began.

    Attributes:
        phase: the name of the phase: `join`, `prepare`, `psi`, `split`, `resume`, `train`, `test`,
            `checkpoint` or `finish`.
        total: the number of units of work in the phase, or None if it is not known.
        unit: the unit of `total`: `ids`, `batches` or `rows`.
        round: the round to which the phase belongs, or 0 if it belongs to none.
    """

    phase: str
    total: int | None = None
    unit: str = ""
    round: int = 0


@dataclass(frozen=True, slots=True)
class Progressed:
    """The current phase made progress.

    Attributes:
        done: the number of units of work that are done.
        total: the number of units of work in the phase, or None if it is not known yet.
    """

    done: int
    total: int | None = None


@dataclass(frozen=True, slots=True)
class PhaseEnded:
    """A phase ended.

    Attributes:
        phase: the name of the phase.
        seconds: the duration of the phase in seconds.
        bytes_sent: the number of bytes that this party sent in the phase.
        bytes_received: the number of bytes that this party received in the phase.
        round: the round to which the phase belongs, or 0 if it belongs to none.
        compute: the seconds of the phase that were spent in hooks.
        encode: the seconds of the phase that were spent on encoding and decoding messages.
        waits: the seconds of the phase that were spent waiting for each party, by feature key.
    """

    phase: str
    seconds: float
    bytes_sent: int
    bytes_received: int
    round: int = 0
    compute: float = 0.0
    encode: float = 0.0
    waits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StillWaiting:
    """This party is still waiting for other parties.

    Attributes:
        parties: the feature keys of the parties that it waits for.
        seconds: the time that it has been waiting, in seconds.
        compare: the settings to compare with those of the missing parties, if they have not
            connected at all; otherwise empty.
    """

    parties: tuple[str, ...]
    seconds: float
    compare: str = ""


@dataclass(frozen=True, slots=True)
class RoundEnded:
    """A round and its test ended.

    Attributes:
        round: the number of the round, counted from 1.
        rounds: the number of rounds of the task.
        seconds: the duration of the round in seconds, including its test.
        loss: the mean of the losses that `train_a_batch` returned, or None if it returned none.
        metrics: the last row of every metrics set to which this round appended. If two sets have a
            key in common, those of the later set are preceded by its name: `test/auc`.
    """

    round: int
    rounds: int
    seconds: float
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartyLost:
    """The connection to a party was lost, and the other parties wait for it to come back.

    Attributes:
        party: the feature key of the lost party.
        seconds: the longest time to wait for it, in seconds.
    """

    party: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run was resumed from a checkpoint.

    Attributes:
        round: the number of complete rounds in the checkpoint; 0 means that only the split was
            done.
        batch: the number of batches of the next round in the checkpoint.
    """

    round: int
    batch: int = 0


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """The task ended.

    Attributes:
        error: the class name of the error that ended it early, or None if it was completed.
        about: the feature key of the party that the error is about, or None if it is about none.
    """

    error: str | None = None
    about: str | None = None


Event = (
    TaskBegan
    | PhaseBegan
    | Progressed
    | PhaseEnded
    | StillWaiting
    | RoundEnded
    | PartyLost
    | Resumed
    | TaskEnded
)
Callback = Callable[[Event], None]

C = TypeVar("C", bound=Callable[..., Any])


def without_progress(callback: C) -> C:
    """Mark a callback that does nothing with `Progressed`, which comes with every batch, so that it
    is not called with it.
    """
    callback.hears_progress = False  # type: ignore[attr-defined]
    return callback


def hears_progress(callback: Callback) -> bool:
    """Return whether a callback is called with `Progressed`, as all are that say nothing else."""
    try:
        return getattr(callback, "hears_progress", True) is not False
    except Exception:  # any object may be a callback
        return True
