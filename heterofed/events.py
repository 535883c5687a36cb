"""What happens during a task, as plain data for callbacks: progress bars, loggers, notebooks.

A callback is any callable that takes one event. The console of `launch_task` is one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PhaseBegan:
    """A phase began: `join`, `prepare`, `psi`, `split`, `resume`, `train`, `test`, `checkpoint`,
    `finish`.

    Attributes:
        total: units of work it will take, where that is known.
        unit: what is counted: `ids`, `batches`, `rows`.
        round: the round it belongs to, or 0.
    """

    phase: str
    total: int | None = None
    unit: str = ""
    round: int = 0


@dataclass(frozen=True, slots=True)
class Progressed:
    """`done` units of the present phase are done (of `total`, where that is known by now)."""

    done: int
    total: int | None = None


@dataclass(frozen=True, slots=True)
class PhaseEnded:
    """A phase ended after `seconds`, in which so many bytes went out and came in.

    Attributes:
        compute, encode: of these seconds, those in hooks, and those in turning tensors and
            messages into bytes and back.
        waits: of these seconds, those of waiting for each party.
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
    """This party has been waiting for `parties` for `seconds`.

    Attributes:
        compare: what to compare with theirs, where they did not come at all.
    """

    parties: tuple[str, ...]
    seconds: float
    compare: str = ""


@dataclass(frozen=True, slots=True)
class RoundEnded:
    """A round and its test are over.

    Attributes:
        loss: mean of the losses that `train_a_batch` returned; None where it returned none.
        metrics: the last row of every metrics set that this round added to.
    """

    round: int
    rounds: int
    seconds: float
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartyLost:
    """`party` is gone; everybody waits up to `seconds` for it to come back."""

    party: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run goes on from a checkpoint: after `round` whole rounds (0: from the split on) and
    `batch` batches of the next one.
    """

    round: int
    batch: int = 0


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """The task is over; `error` is the class name of what ended it early, else None."""

    error: str | None = None


Event = (
    PhaseBegan
    | Progressed
    | PhaseEnded
    | StillWaiting
    | RoundEnded
    | PartyLost
    | Resumed
    | TaskEnded
)
Callback = Callable[[Event], None]
