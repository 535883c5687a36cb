"""Computes the leak report of a run by attacks on samples of what was really sent.

A time budget limits the attacks. The Host's `LabelLeaks` sees gradients and labels, and a
Collaborator's `InputLeaks` sees its inputs and embeddings. Neither sees more than its party has
anyway.
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
"""The effort of measuring leaks: some batches within a budget of time, all batches, or none."""

SHARE, SHARE_AT_END = 0.005, 0.027
"""The share of the training time that samples may take, and that all attacks may take together.

The documentation promises 3 %.
"""
KEPT_ROWS, KEPT_BYTES = 1000, 8_000_000
"""The most rows and bytes of each party that are kept for attacks that need several batches."""
MEASURED_ROWS = 4096
"""The most rows of a batch that are measured; more would cost time and show nothing more."""
MEASURED_NUMBERS = 1 << 22
"""The most numbers of a batch that are measured.

Attacks copy them in float32 or wider, and a peer determines the length of a row.
"""


def check_effort(effort: object) -> None:
    """Refuse an unknown effort.

    Raises:
        ConfigError: the effort is not "sample", "full" or "off".
    """
    if effort not in get_args(Effort):
        raise ConfigError(f"leak_report={effort!r}: give one of {', '.join(get_args(Effort))}")


class Budget:
    """Decides when there is time to measure, which may take a share of the training time.

    Args:
        effort: "sample" measures within the share, "full" always, and "off" never.
        clock: returns a time in seconds.
    """

    def __init__(self, effort: Effort, clock: Callable[[], float] = time.perf_counter) -> None:
        self.effort = effort
        self._clock = clock
        self._since = 0.0
        self._trained = 0.0
        self._spent = 0.0
        self._last: dict[str, float] = {}

    def start(self) -> None:
        """Note that training starts or continues."""
        self._since = self._clock()

    def stop(self) -> None:
        """Note that training pauses, because a round is over."""
        self._trained += self._clock() - self._since

    @property
    def spent(self) -> float:
        """The number of seconds that were spent on measuring."""
        return self._spent

    def allows(self, attack: str, cost: float, *, running: bool = True) -> bool:
        """Return whether there is time for an attack.

        Args:
            attack: the name of the attack, which is expected to take as long as last time.
            cost: the expected time in seconds of an attack that has not run yet.
            running: whether training goes on now; else the budget includes the attacks at the end.
        """
        if self.effort != "sample":
            return self.effort == "full"
        trained = self._trained + (self._clock() - self._since if running else 0.0)
        share = SHARE if running else SHARE_AT_END
        return self._spent + self._last.get(attack, cost) <= share * trained

    def timed(self, attack: str, run: Callable[[], T]) -> T:
        """Run an attack, count its time, and return its result."""
        began = self._clock()
        try:
            return run()
        finally:
            self._last[attack] = self._clock() - began
            self._spent += self._last[attack]


class Means:
    """The mean results of the samples of a round, for each class."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], dict[int, list[float]]] = {}

    def add(self, party: str, attack: str, found: dict[int, float]) -> None:
        """Add the values of an attack on one batch, by class; NaN is left out."""
        classes = self._values.setdefault((party, attack), {})
        for number, value in found.items():
            if not math.isnan(value):
                classes.setdefault(number, []).append(value)

    def taken(self) -> Iterator[tuple[str, str, list[float], int]]:
        """Yield party, attack, the mean of each class and the most batches, and begin anew."""
        for (party, attack), classes in self._values.items():
            means = [sum(values) / len(values) for values in classes.values()]
            yield party, attack, means, max(map(len, classes.values()), default=0)
        self._values.clear()


class Kept:
    """Keeps the last rows of two tensors with the same rows, within `KEPT_ROWS` and
    `KEPT_BYTES`.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._most = KEPT_ROWS
        self._batches: deque[tuple[Tensor, Tensor]] = deque()

    def add(self, one: Tensor, other: Tensor) -> None:
        """Keep the last rows of two tensors of one batch, and forget the oldest ones."""
        forms = [each.shape[1:] for each in (one, other)]
        if self._batches and [each.shape[1:] for each in self._batches[-1]] != forms:
            self._batches.clear()  # rows of another length cannot be joined with these
            self.rows = 0
        self._most = rows_with_room(one, other)
        # A clone does not hold the memory of the whole batch.
        one, other = one[-self._most :].clone(), other[-self._most :].clone()
        while self._batches and self.rows + len(one) - len(self._batches[0][0]) >= self._most:
            self.rows -= len(self._batches.popleft()[0])
        self._batches.append((one, other))
        self.rows += len(one)

    @property
    def is_full(self) -> bool:
        """Return whether the limit of rows is reached."""
        return self.rows >= self._most

    def last(self) -> tuple[Tensor, Tensor]:
        """Return the kept rows, each side as one tensor."""
        ones, others = zip(*self._batches, strict=True)
        return torch.cat(ones)[-self._most :], torch.cat(others)[-self._most :]


def rows_with_room(*tensors: Tensor, most: int = KEPT_ROWS) -> int:
    """Return how many rows of these tensors may be kept, at most `most`."""
    row = sum(each[:1].numel() * each.element_size() for each in tensors)
    return max(1, min(most, KEPT_BYTES // max(1, row)))


def rows_to_measure(tensors: Iterable[Tensor]) -> int:
    """Return how many rows of a batch are measured; 0 if a single row is too long."""
    row = sum(math.prod(each.shape[1:]) for each in tensors)
    return min(MEASURED_ROWS, MEASURED_NUMBERS // max(1, row))


class LabelLeaks:
    """Measures what the Host's gradients reveal of its labels.

    Args:
        budget: the time budget.
        harmless: reports attacks that fail, while the others continue.
    """

    def __init__(self, budget: Budget, harmless: Harmless | None = None) -> None:
        self._budget = budget
        self._harmless = harmless or Harmless()
        self._means = Means()
        self._waiting: list[tuple[str, Tensor, Tensor, Tensor]] = []
        self._kept: dict[str, Kept] = {}
        self._measured = False

    def has_time(self) -> bool:
        """Return whether to look at the next batch: there is time, or nothing was measured yet.

        Looking at every batch without measuring it would take more time than measuring some
        batches.
        """
        if self._budget.effort == "off":
            return False
        return not self._measured or self._budget.allows("gradients", 0.002)

    def note(
        self, party: str, sent: Tensor, clean: Tensor, labels: object, embeddings: Tensor
    ) -> None:
        """Take one batch as a Collaborator gets it, and measure it if there is time.

        Args:
            party: the Collaborator.
            sent: the gradients as they are sent, of shape [rows, d].
            clean: the gradients before any defence, of shape [rows, d].
            labels: the labels of the rows; batches whose labels are not classes are not measured.
            embeddings: the embeddings that the Collaborator sent, of shape [rows, e].
        """
        numbers = class_numbers(labels, len(sent))
        if self._budget.effort == "off" or numbers is None or len(sent) == 0:
            return
        most = max(rows_with_room(sent, most=len(sent)), 64)
        sent, clean, numbers = sent[:most], clean[:most], numbers[:most]
        self._kept.setdefault(party, Kept()).add(embeddings.detach()[:most], numbers)
        allowed = self._budget.allows("gradients", 0.002)
        if self._measured and not allowed:
            return
        if int((numbered_anew(numbers)[1].bincount() > 1).sum()) < 2:
            return  # there is only one class
        batch = (party, sent, clean, numbers)
        if allowed:
            self._measure(*batch)
        else:  # a short run then has at least one measurement of each party
            # The user's hooks may reuse the memory, so the rows are copied.
            batch = (party, sent.clone(), clean.clone(), numbers.clone())
            self._waiting = [each for each in self._waiting if each[0] != party] + [batch]

    def end_round(self) -> list[Leak]:
        """Return the leaks that the samples of the round show."""
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
        """Run model completion on the last embeddings of each party if there is time."""
        found: list[Leak] = []
        for party, kept in self._kept.items():
            with self._harmless(told("completion")):
                found += self._completed(party, *kept.last())
        return found

    def _completed(self, party: str, embeddings: Tensor, labels: Tensor) -> Iterator[Leak]:
        """Yield the result of model completion, if there are enough rows and time is left."""
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
        """Run the attacks that read labels from gradients, within the budget of time."""

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
                    # One per class, but only that of class 1 for two classes.
                    aucs = each().tolist()
                    of = classes[-1:] if len(aucs) == 1 else classes
                    self._means.add(party, name, dict(zip(of, aucs, strict=True)))

        self._measured = True
        self._budget.timed("gradients", attack)


class InputLeaks:
    """Measures what a Collaborator's embeddings reveal of its inputs.

    Args:
        budget: the time budget.
        harmless: reports attacks that fail, while the others continue.
    """

    def __init__(self, budget: Budget, harmless: Harmless | None = None) -> None:
        self._budget = budget
        self._harmless = harmless or Harmless()
        self._means = Means()
        self._filling: Kept | None = Kept()  # collects consecutive batches
        self._kept: Kept | None = None  # the rows that were measured last
        self._measured = False

    def has_time(self) -> bool:
        """Return whether to look at the next batch: rows are being collected, or there is time.

        Keeping every batch would take more time than measuring some batches.
        """
        if self._budget.effort == "off":
            return False
        return self._filling is not None or self._budget.allows("embeddings", 0.005)

    def note(self, inputs: Tensor, embeddings: Tensor) -> None:
        """Take one batch as the Host gets it, and measure it if there is time.

        Args:
            inputs: the inputs of the feature model, of shape [rows, ...].
            embeddings: the embeddings of the same rows as they are sent, of shape [rows, d].
        """
        if not self.has_time() or len(inputs) < 8 or not inputs.is_floating_point():
            return
        self._filling = self._filling or Kept()
        self._filling.add(inputs.detach(), embeddings.detach())
        each_batch = self._budget.effort == "full"
        if (each_batch or self._filling.is_full) and self._budget.allows("embeddings", 0.005):
            self._kept = self._filling
            self._measure(self._kept)
            self._filling = self._filling if each_batch else None

    def end_round(self) -> list[Leak]:
        """Return the leaks that the samples of the round show."""
        if self._filling is not None and self._filling.rows and not self._measured:
            self._measure(self._filling)
        return [
            Leak("the Host", name, "r2" if name == "ridge" else "correlation", mean, count)
            for _, name, means, count in self._means.taken()
            for mean in means
        ]

    def at_end(self) -> list[Leak]:
        """Run the attack with a trained decoder on the last rows if there is time."""
        kept = self._kept or self._filling
        if not kept or not kept.rows or not self._budget.allows("decoder", 1.0, running=False):
            return []
        inputs, embeddings = kept.last()
        found = self._budget.timed(
            "decoder", functools.partial(decoder_reconstruction, inputs, embeddings)
        )
        r2 = not_below_zero(found.r2)
        return [] if math.isnan(r2) else [Leak("the Host", "decoder", "r2", r2, len(inputs))]

    def _measure(self, kept: Kept) -> None:
        """Run the attacks that rebuild inputs from embeddings, within the budget of time."""

        def attack() -> None:
            # The rows come from several batches. The weights have moved a little meanwhile, but the
            # few rows of one batch are not enough for a reconstruction.
            x, z = (each.float() for each in kept.last())
            # With fewer known rows than columns, a regression fits anything and its result means
            # nothing.
            if len(x) >= 4 * z.flatten(1).shape[1]:
                with self._harmless(told("ridge")):
                    found = not_below_zero(ridge_reconstruction(x, z).r2)
                    self._means.add("", "ridge", {0: found})
            with self._harmless(told("distance_correlation")):
                correlation = distance_correlation(x[-256:], z[-256:], unbiased=True)
                self._means.add("", "distance_correlation", {0: correlation.item()})

        self._measured = True
        with torch.no_grad():
            self._budget.timed("embeddings", attack)


def told(attack: str) -> str:
    """Return the name that the log uses for a failed attack of the leak report."""
    return f"the attack {attack} of the leak report"


def not_below_zero(value: float) -> float:
    """Return the value, or 0 if it is negative; NaN stays NaN."""
    return 0.0 if value < 0 else value
