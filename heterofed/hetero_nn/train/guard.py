"""Where privacy meets the loops: what goes out passes a guard, is changed and measured there.

The loops call `outgoing` before they send and `note` after; what was measured is written when a
round ends. Without defences everything passes unchanged. What both roles' guards share is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from typing import Any

from torch import Tensor

from heterofed.hetero_nn.train.releases import Releases
from heterofed.metrics import NEVER_CUT, Metrics
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.findings import Leak, worst_of
from heterofed.privacy.leakage import (
    MEASURED_ROWS,
    Budget,
    Effort,
    InputLeaks,
    LabelLeaks,
)
from heterofed.privacy.noise import Noise
from heterofed.privacy.release_costs import Totals
from heterofed.privacy.rows import joined
from heterofed.reporting.diagnostics import shielded
from heterofed.runs.run import Run

LEAKAGE = ("party", "attack", "measure", "value", "samples")
EPSILONS = ("eps_weights", "eps_embeddings", "eps_labels")
OURS = frozenset({"train", "leakage", "privacy"})
"""Metrics sets that the loops write themselves."""

REPORT = "the leak report"
"""How the log names it where it fails."""

Stream = Callable[..., Any]
"""Runs a function under a random stream of this party: `stream(name, function, *arguments)`."""


def budget_of(run: Run, effort: Effort) -> Budget:
    """The time that the leak report may take."""
    return shielded(lambda: Budget(effort), REPORT, run.harmless)


def names_of(**defences: object) -> dict[str, str]:
    """Return the names of the classes of those defences that there are."""
    return {what: type(each).__name__ for what, each in defences.items() if each is not None}


class Guard:
    """What both roles share: the report and the epsilons of a run.

    Args:
        run: that it belongs to.
        budget: the budget of time for the report.
        report: the attacks of this role.
        users: names of metrics sets that the user registered; they stay the user's.
        weights: DP-SGD of this party, where there is one.
        releases: counts what leaves, before it does.
    """

    def __init__(
        self,
        run: Run,
        budget: Budget,
        report: LabelLeaks | InputLeaks,
        users: Container[str],
        weights: DPSGD | None,
        releases: Releases,
    ) -> None:
        self.budget = budget
        self._releases = releases
        resumed = run.agreement.resume is not None  # perhaps after a kill, which told nothing
        self._told: Totals | None = None if resumed else releases.totals
        run.tell = self.tell
        self._run = run
        self._found = run.state.leaks
        self._report = report
        self._weights = weights
        self._users = users
        if weights is not None:
            if run.state.train_ids:  # it goes on; else the split tells
                weights.take_rows(len(run.state.train_ids))
            weights.steps = run.state.kept.private_steps  # of this run, as its checkpoint has it

    def _noise(self, peer: str) -> Noise:
        """What hides the batch that is at hand from a peer."""
        party = self._run.party
        return Noise(self._run.noise, party.phase, peer, self._run.round, party.batch)

    def end_round(self) -> None:
        """Write what was measured in this round, and the epsilons of all that has left so far."""
        with self._run.harmless(REPORT):
            self._write(self._report.end_round() or [])
        self.note_counts()
        self._told = None
        self.tell()

    def tell(self) -> None:
        """Write the epsilons of all that has left, where something has since they were written."""
        if self._told == self._releases.totals:
            return
        self._told = self._releases.totals
        told = self._releases.epsilons()
        if told and NEVER_CUT not in self._users:
            row = dict.fromkeys(EPSILONS, math.nan) | told
            self._opened(NEVER_CUT, EPSILONS).append_metrics_item(row)

    def note_counts(self) -> None:
        """A checkpoint is about to be written: what was stepped so far is charged before."""
        self._releases.settle()
        if self._weights is not None:
            self._run.state.kept.private_steps = self._weights.steps

    def close(self) -> None:
        """The run has ended, or goes back to a checkpoint with another guard."""
        with self._run.harmless(REPORT):
            self._run.result.leak_seconds += self.budget.spent

    def end(self) -> None:
        """Run the attacks that take longer, and say the worst in plain words."""
        self.tell()
        with self._run.harmless(REPORT):
            self._write(self._report.at_end() or [])
        with self._run.harmless(REPORT):
            leaks = worst_of(self._found)
            self._run.result.leaks = [each.words() for each in leaks]
        self.close()

    def _write(self, leaks: list[Leak]) -> None:
        self._found.extend(leaks)
        for leak in leaks if "leakage" not in self._users else ():
            row = {key: getattr(leak, key) for key in LEAKAGE}
            with self._run.harmless("leakage.csv"):
                self._opened("leakage", LEAKAGE).append_metrics_item(row)

    def _opened(self, name: str, keys: tuple[str, ...]) -> Metrics:
        if name not in self._run.metrics:
            opened = self._run.open_metrics(name, keys)
            if name != NEVER_CUT:
                opened.cut(0)  # what lies there no checkpoint knows of
        return self._run.metrics[name]


def some_rows(tensors: Mapping[str, Tensor], rows: int = MEASURED_ROWS) -> Tensor:
    """The first rows of a batch, one vector each; without a copy where there is one tensor."""
    return joined({name: each.detach()[:rows] for name, each in tensors.items()})
