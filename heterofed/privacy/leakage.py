"""The leak report of a run: the attacks, run on samples of what was really sent, within a budget.

Knows tensors and a clock. A Host's `LabelLeaks` sees gradients and labels; a Collaborator's
`InputLeaks` its inputs and embeddings. Neither ever sees more than its party has anyway.
"""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.privacy.findings import KNOWN_LABELS, Leak
from heterofed.privacy.input_attacks import (
    decoder_reconstruction,
    distance_correlation,
    ridge_reconstruction,
)
from heterofed.privacy.label_attacks import (
    class_numbers,
    cosine_leak,
    model_completion,
    norm_leak,
    numbered_anew,
    spectral_leak,
)
from heterofed.privacy.scores import folded
from heterofed.reporting.diagnostics import Harmless

T = TypeVar("T")

Effort = Literal["sample", "full", "off"]

SHARE, SHARE_AT_END = 0.005, 0.027
"""Of the time that training takes, what samples may take, and with the attacks at the end; 3 % is
promised."""
KEPT_ROWS, KEPT_BYTES = 1000, 8_000_000
"""Of each party, for attacks that need more than one batch; whichever is less."""
MEASURED_ROWS = 4096
"""Of a batch; more would tell no more, and cost."""
MEASURED_NUMBERS = 1 << 22
"""Of a batch; attacks work on copies in float32 or wider, and a peer says how long a row is."""


def check_effort(effort: object) -> None:
    """Refuse an effort that there is not.

    Raises:
        ConfigError: it is none of "sample", "full", "off".
    """
    if effort not in get_args(Effort):
        raise ConfigError(f"leak_report={effort!r}: give one of {', '.join(get_args(Effort))}")


class Budget:
    """Decides when there is time to measure: some share of the time that goes by.

    Args:
        effort: "full" measures whenever asked; "off" never.
        clock: seconds.
    """

    def __init__(self, effort: Effort, clock: Callable[[], float] = time.perf_counter) -> None:
        self.effort = effort
        self._clock = clock
        self._since = 0.0
        self._trained = 0.0
        self._spent = 0.0
        self._last: dict[str, float] = {}

    def start(self) -> None:
        """Training goes on."""
        self._since = self._clock()

    def stop(self) -> None:
        """Training pauses: a round is over."""
        self._trained += self._clock() - self._since

    @property
    def spent(self) -> float:
        """Seconds spent on measuring."""
        return self._spent

    def allows(self, attack: str, cost: float, *, running: bool = True) -> bool:
        """Whether an attack that took so many seconds last time (at first: `cost`) may run."""
        if self.effort != "sample":
            return self.effort == "full"
        trained = self._trained + (self._clock() - self._since if running else 0.0)
        share = SHARE if running else SHARE_AT_END
        return self._spent + self._last.get(attack, cost) <= share * trained

    def timed(self, attack: str, run: Callable[[], T]) -> T:
        """Run an attack and count what it takes; gives what it found."""
        began = self._clock()
        try:
            return run()
        finally:
            self._last[attack] = self._clock() - began
            self._spent += self._last[attack]


class _Means:
    """Means of what the samples of a round gave, for each class."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], dict[int, list[float]]] = {}

    def add(self, party: str, attack: str, found: dict[int, float]) -> None:
        classes = self._values.setdefault((party, attack), {})
        for number, value in found.items():
            if not math.isnan(value):
                classes.setdefault(number, []).append(value)

    def taken(self) -> Iterator[tuple[str, str, list[float], int]]:
        for (party, attack), classes in self._values.items():
            means = [sum(values) / len(values) for values in classes.values()]
            yield party, attack, means, max(map(len, classes.values()), default=0)
        self._values.clear()


class _Kept:
    """The last rows of two tensors that belong together: `KEPT_ROWS`, or as many as there is room
    for.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._most = KEPT_ROWS
        self._batches: deque[tuple[Tensor, Tensor]] = deque()

    def add(self, one: Tensor, other: Tensor) -> None:
        forms = [each.shape[1:] for each in (one, other)]
        if self._batches and [each.shape[1:] for each in self._batches[-1]] != forms:
            self._batches.clear()  # rows of another length cannot stand beside these
            self.rows = 0
        self._most = rows_with_room(one, other)
        one, other = one[-self._most :].clone(), other[-self._most :].clone()  # not the whole batch
        while self._batches and self.rows + len(one) - len(self._batches[0][0]) >= self._most:
            self.rows -= len(self._batches.popleft()[0])
        self._batches.append((one, other))
        self.rows += len(one)

    @property
    def is_full(self) -> bool:
        """Whether there are as many rows as are kept."""
        return self.rows >= self._most

    def last(self) -> tuple[Tensor, Tensor]:
        ones, others = zip(*self._batches, strict=True)
        return torch.cat(ones)[-self._most :], torch.cat(others)[-self._most :]


def rows_with_room(*tensors: Tensor, most: int = KEPT_ROWS) -> int:
    """How many rows of these may be held, at most `most`."""
    row = sum(each[:1].numel() * each.element_size() for each in tensors)
    return max(1, min(most, KEPT_BYTES // max(1, row)))


def rows_to_measure(tensors: Iterable[Tensor]) -> int:
    """How many rows of a batch are measured; 0 where one alone is too long."""
    row = sum(math.prod(each.shape[1:]) for each in tensors)
    return min(MEASURED_ROWS, MEASURED_NUMBERS // max(1, row))


class LabelLeaks:
    """What the Host's gradients tell of its labels.

    Args:
        budget: the budget of time.
        harmless: tells of attacks that fail; the others go on.
    """

    def __init__(self, budget: Budget, harmless: Harmless | None = None) -> None:
        self._budget = budget
        self._harmless = harmless or Harmless()
        self._means = _Means()
        self._waiting: list[tuple[str, Tensor, Tensor, Tensor]] = []
        self._kept: dict[str, _Kept] = {}
        self._measured = False

    def has_time(self) -> bool:
        """Whether the next batch is worth a look: there is time, or nothing was measured yet.

        To look at each batch, and not to measure it, takes more time than to measure some.
        """
        if self._budget.effort == "off":
            return False
        return not self._measured or self._budget.allows("gradients", 0.002)

    def note(
        self, party: str, sent: Tensor, clean: Tensor, labels: object, embeddings: Tensor
    ) -> None:
        """See one batch as a Collaborator gets it; measures where there is time.

        Args:
            party: the Collaborator.
            sent: [rows, d] gradients as they are sent.
            clean: the same before any defence.
            labels: the labels of the rows; batches without class numbers are not measured.
            embeddings: [rows, e], what the Collaborator had sent.
        """
        numbers = class_numbers(labels, len(sent))
        if self._budget.effort == "off" or numbers is None or len(sent) == 0:
            return
        most = max(rows_with_room(sent, most=len(sent)), 64)
        sent, clean, numbers = sent[:most], clean[:most], numbers[:most]
        self._kept.setdefault(party, _Kept()).add(embeddings.detach()[:most], numbers)
        allowed = self._budget.allows("gradients", 0.002)
        if self._measured and not allowed:
            return
        if int((numbered_anew(numbers)[1].bincount() > 1).sum()) < 2:
            return  # no class to tell from another
        batch = (party, sent, clean, numbers)
        if allowed:
            self._measure(*batch)
        else:  # so that a short run has at least one of each party
            # Whoever's memory they are in.
            batch = (party, sent.clone(), clean.clone(), numbers.clone())
            self._waiting = [each for each in self._waiting if each[0] != party] + [batch]

    def end_round(self) -> list[Leak]:
        """What the round's samples gave."""
        if not self._measured:
            for batch in self._waiting:
                self._measure(*batch)
        self._waiting = []
        return [
            Leak(party, attack, "auc", max(map(folded, means)), samples)
            for party, attack, means, samples in self._means.taken()
            if means
        ]

    def at_end(self) -> list[Leak]:
        """Model completion from the last embeddings, where there is time."""
        found: list[Leak] = []
        for party, kept in self._kept.items():
            with self._harmless(told("completion")):
                found += self._completed(party, *kept.last())
        return found

    def _completed(self, party: str, embeddings: Tensor, labels: Tensor) -> Iterator[Leak]:
        classes, labels = numbered_anew(labels)
        usable = len(labels) > 2 * KNOWN_LABELS and len(classes) > 1
        if usable and self._budget.allows("completion", 1.0, running=False):
            leak = self._budget.timed(
                "completion",
                functools.partial(model_completion, embeddings, labels, known=KNOWN_LABELS),
            )
            if not math.isnan(leak.auc):
                yield Leak(party, "completion", "auc", leak.auc, len(labels))

    def _measure(self, party: str, sent: Tensor, clean: Tensor, labels: Tensor) -> None:
        def attack() -> None:
            classes, numbers = numbered_anew(labels.to(sent.device))
            generator = torch.Generator().manual_seed(0)  # takes nothing from the user's streams
            attacks: dict[str, Callable[[], Tensor]] = {
                "norm": lambda: norm_leak(sent, numbers),
                "cosine": lambda: cosine_leak(sent, numbers, clean=clean, generator=generator),
                "spectral": lambda: spectral_leak(sent, numbers),
            }
            for name, each in attacks.items():
                with self._harmless(told(name)):
                    aucs = each().tolist()  # of each class, or where there are two of class 1 alone
                    of = classes[-1:] if len(aucs) == 1 else classes
                    self._means.add(party, name, dict(zip(of, aucs, strict=True)))

        self._measured = True
        self._budget.timed("gradients", attack)


class InputLeaks:
    """What a Collaborator's embeddings tell of its inputs.

    Args:
        budget: the budget of time.
        harmless: tells of attacks that fail; the others go on.
    """

    def __init__(self, budget: Budget, harmless: Harmless | None = None) -> None:
        self._budget = budget
        self._harmless = harmless or Harmless()
        self._means = _Means()
        self._filling: _Kept | None = _Kept()  # with batches that follow each other
        self._kept: _Kept | None = None  # the last that were measured
        self._measured = False

    def has_time(self) -> bool:
        """Whether the next batch is worth a look: it follows on others, or there is time for more.

        To keep each batch takes more time than to measure some.
        """
        if self._budget.effort == "off":
            return False
        return self._filling is not None or self._budget.allows("embeddings", 0.005)

    def note(self, inputs: Tensor, embeddings: Tensor) -> None:
        """See one batch as the Host gets it; measures where there is time.

        Args:
            inputs: [rows, ...], what the feature model was called with.
            embeddings: [rows, d] of the same rows, as they are sent.
        """
        if not self.has_time() or len(inputs) < 8 or not inputs.is_floating_point():
            return
        self._filling = self._filling or _Kept()
        self._filling.add(inputs.detach(), embeddings.detach())
        each_batch = self._budget.effort == "full"
        if (each_batch or self._filling.is_full) and self._budget.allows("embeddings", 0.005):
            self._kept = self._filling
            self._measure(self._kept)
            self._filling = self._filling if each_batch else None

    def end_round(self) -> list[Leak]:
        """What the round's samples gave."""
        if self._filling is not None and self._filling.rows and not self._measured:
            self._measure(self._filling)
        return [
            Leak("the Host", name, "r2" if name == "ridge" else "correlation", mean, count)
            for _, name, means, count in self._means.taken()
            for mean in means
        ]

    def at_end(self) -> list[Leak]:
        """A trained decoder on the last rows, where there is time."""
        kept = self._kept or self._filling
        if not kept or not kept.rows or not self._budget.allows("decoder", 1.0, running=False):
            return []
        inputs, embeddings = kept.last()
        found = self._budget.timed(
            "decoder", functools.partial(decoder_reconstruction, inputs, embeddings)
        )
        r2 = _not_below_zero(found.r2)
        return [] if math.isnan(r2) else [Leak("the Host", "decoder", "r2", r2, len(inputs))]

    def _measure(self, kept: _Kept) -> None:
        def attack() -> None:
            # Of several batches: weights have moved a little, but few rows rebuild nothing.
            x, z = (each.float() for each in kept.last())
            # Fewer known rows than columns fit anything; then what is rebuilt means nothing.
            if len(x) >= 4 * z.flatten(1).shape[1]:
                with self._harmless(told("ridge")):
                    found = _not_below_zero(ridge_reconstruction(x, z).r2)
                    self._means.add("", "ridge", {0: found})
            with self._harmless(told("distance_correlation")):
                correlation = distance_correlation(x[-256:], z[-256:], unbiased=True)
                self._means.add("", "distance_correlation", {0: correlation.item()})

        self._measured = True
        with torch.no_grad():
            self._budget.timed("embeddings", attack)


def told(attack: str) -> str:
    """How the log names an attack of the leak report that fails."""
    return f"the attack {attack} of the leak report"


def _not_below_zero(value: float) -> float:
    """The same, or 0 where it is less; NaN stays NaN."""
    return 0.0 if value < 0 else value
