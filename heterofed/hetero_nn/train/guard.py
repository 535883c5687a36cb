"""Defines the base of the guards, which defend, count and measure everything that is sent.

The loops call `outgoing` before they send and `note` afterwards. The measurements are written when
a round ends. Without defences, everything passes unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from heterofed.hetero_nn.train.leak_watch import LeakWatch
from heterofed.hetero_nn.train.releases import Releases
from heterofed.metrics import NEVER_CUT, Metrics
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.findings import Leak, worst_of
from heterofed.privacy.leak_meters import Measure
from heterofed.privacy.leakage import (
    MEASURED_ROWS,
    Budget,
    Effort,
)
from heterofed.privacy.noise import Noise
from heterofed.privacy.release_costs import Totals
from heterofed.privacy.rows import joined
from heterofed.reporting.diagnostics import shielded
from heterofed.runs.run import Run

LEAKAGE = ("party", "attack", "measure", "value", "samples")
EPSILONS = ("eps_weights", "eps_embeddings", "eps_labels")
OURS = frozenset({"train", "leakage", "privacy"})
"""The names of the metrics sets that the loops write."""

REPORT = "the leak report"
"""The name of the leak report in log lines about its failures."""

Stream = Callable[..., Any]
"""Runs a function on a random stream of this party: `stream(name, function, *arguments)`."""


def budget_of(run: Run, effort: Effort) -> Budget:
    """Return the time budget of the leak report."""
    return shielded(lambda: Budget(effort), REPORT, run.harmless)


def names_of(**defences: object) -> dict[str, str]:
    """Return the names of the classes of those defences that there are."""
    return {what: type(each).__name__ for what, each in defences.items() if each is not None}


class Report(Protocol):
    """Attacks on what this party sends."""

    def end_round(self) -> list[Leak]:
        """Return the leaks that the samples of the round show."""

    def at_end(self) -> list[Leak]:
        """Return the leaks that attacks at the end of a run show."""


class Guard:
    """The base of both guards, with the leak report and the epsilons of a run.

    Args:
        run: the run.
        budget: the time budget for the report.
        reports: the attacks of this role.
        users: the names of metrics sets that the user registered, which the guard does not write.
        weights: the DP-SGD of this party, if any.
        releases: counts everything that is sent, before it is sent.

    Attributes:
        measure: the leak that this role limits, if the terms say so.
    """

    measure: ClassVar[Measure]

    def __init__(
        self,
        run: Run,
        budget: Budget,
        reports: Sequence[Report],
        users: Container[str],
        weights: DPSGD | None,
        releases: Releases,
    ) -> None:
        self.budget = budget
        self._releases = releases
        # Perhaps after a kill, before which nothing was written.
        resumed = run.agreement.resume is not None
        self._told: Totals | None = None if resumed else releases.totals
        run.tell, run.spent = self.tell, self.spent
        self._run = run
        self._reports = reports
        self._weights = weights
        self._users = users
        limit = run.plan.limits.of(self.measure)
        self._watch = None if limit is None else LeakWatch(run, self.measure, limit)
        if weights is not None:
            if run.state.train_ids:  # a resumed run; otherwise the split gives the number
                weights.take_rows(len(run.state.train_ids))
            weights.steps = run.state.kept.private_steps  # the steps of this run by its checkpoint

    def _raised(self, peer: str) -> int:
        """Return how often the defence against a recipient was raised."""
        return self._watch.raised(peer) if self._watch is not None else 0

    def _noise(self, peer: str) -> Noise:
        """Return the noise that hides the current batch from a peer."""
        party = self._run.party
        return Noise(self._run.noise, party.phase, peer, self._run.round, party.batch)

    def end_round(self) -> None:
        """Write the measurements of this round, and the epsilons of everything sent so far."""
        self._run.state.new_leaks.clear()  # the receipt, if there is one, has them
        for each in self._reports:
            with self._run.harmless(REPORT):
                self._write(each.end_round() or [])
        self.note_counts()
        self._told = None
        self.tell()

    def tell(self) -> None:
        """Write the epsilons of everything sent, if something was sent since the last time."""
        if self._told == self._releases.totals:
            return
        self._told = self._releases.totals
        told = self._releases.epsilons()
        if told and NEVER_CUT not in self._users:
            row = dict.fromkeys(EPSILONS, math.nan) | told
            self._opened(NEVER_CUT, EPSILONS).append_metrics_item(row)

    def spent(self) -> dict[str, float]:
        """Return the epsilons so far, and the releases of the row that was sent most often."""
        return {**self._releases.epsilons(), "releases_per_row": self._releases.totals.most.sent}

    def note_counts(self) -> None:
        """Charge the steps so far to the ledger, because a checkpoint will be written."""
        self._releases.settle()
        if self._watch is not None:
            self._watch.keep()
        if self._weights is not None:
            self._run.state.kept.private_steps = self._weights.steps

    def close(self) -> None:
        """Close the guard, because the run has ended or rolls back with another guard."""
        if self._watch is not None:
            self._watch.keep()
        with self._run.harmless(REPORT):
            self._run.result.leak_seconds += self.budget.spent

    def end(self) -> None:
        """Run the attacks at the end of a run, and log the worst leaks in words."""
        self.tell()
        for each in self._reports:
            with self._run.harmless(REPORT):
                self._write(each.at_end() or [])
        with self._run.harmless(REPORT):
            self._run.result.leaks = [each.words() for each in self._run.state.leaks]
        self.close()

    def _write(self, leaks: list[Leak]) -> None:
        state = self._run.state
        state.new_leaks += leaks
        state.leaks = worst_of([*state.leaks, *leaks])
        for leak in leaks if "leakage" not in self._users else ():
            row = {key: getattr(leak, key) for key in LEAKAGE}
            with self._run.harmless("leakage.csv"):
                self._opened("leakage", LEAKAGE).append_metrics_item(row)

    def _opened(self, name: str, keys: tuple[str, ...]) -> Metrics:
        if name not in self._run.metrics:
            opened = self._run.open_metrics(name, keys)
            if name != NEVER_CUT:
                opened.cut(0)  # no checkpoint has these rows
        return self._run.metrics[name]


def some_rows(tensors: Mapping[str, Tensor], rows: int = MEASURED_ROWS) -> Tensor:
    """Return the first rows of a batch as vectors; a single tensor is not copied."""
    return joined({name: each.detach()[:rows] for name, each in tensors.items()})
