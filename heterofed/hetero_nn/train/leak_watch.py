"""Compares the measured leak of what is about to be sent with its limit in the terms.

The evidence is kept in the ledger of releases, over all runs of the task. It is not part of
checkpoints, so that neither a peer nor a restart can make it forgotten. A batch that is sent again
after that, with the same content, counts once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from heterofed.errors import LeakLimitError
from heterofed.privacy.leak_meters import Measure, Measured
from heterofed.privacy.leak_tests import ALPHA, Found, LeakTest
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")

TASK = b""
"""Stands in the ledger for all runs of a task."""

MOST_RAISES = 3
"""The number of times that a defence is raised, if the terms allow it, before the task ends."""

KEPT_EVERY = 64
"""The number of batches after which the evidence is written, if it has not grown meanwhile."""

WHAT = {
    "label_auc": "the label AUC of the gradients",
    "input_r2": "the share of the inputs' variance that the features reveal",
}


class LeakWatch:
    """The limit of one measure, for each recipient.

    Args:
        run: the run, whose parties are connected.
        measure: the measure.
        limit: its limit.
    """

    def __init__(self, run: Run, measure: Measure, limit: float) -> None:
        self._run, self._measure, self.limit = run, measure, limit
        self._tests: dict[str, LeakTest] = {}
        self._raised: dict[str, int] = {}
        self._kept: dict[str, float] = {}
        self._since: dict[str, int] = {}

    def raised(self, peer: str) -> int:
        """Return how often the defence against a recipient was raised, in all runs of the task."""
        if peer not in self._raised:
            counted = self._run.opened_ledger().counted(TASK, self._name(peer, "raised"))
            self._raised[peer] = counted
        return self._raised[peer]

    def admits(self, peer: str, number: int | None, measure: Callable[[int], Measured]) -> bool:
        """Measure a batch that is about to be sent to a recipient.

        Args:
            peer: the recipient.
            number: the number of the batch.
            measure: returns the measurements of the batch, in up to so many parts.

        Returns:
            Whether it may be sent; False if the defence was raised, and the batch must be defended
            anew and measured again.

        Raises:
            LeakLimitError: the leak exceeds its limit, and no defence may be raised.
            LedgerError: the evidence cannot be kept.
        """
        test = self._test(peer)
        measured = measure(test.parts)
        if measured.parts and test.is_new(self._place(number) + measured.digest):
            for each in measured.parts:
                test.add(each)
        found = test.found()
        self._keep(peer, test, at_once=found is not None)
        if found is None:
            return True
        if not self._run.plan.limits.raise_defence or self.raised(peer) >= MOST_RAISES:
            raise self._too_much(peer, found)
        self._raise(peer, test, found)
        return False

    def keep(self) -> None:
        """Write the evidence, because a round, a checkpoint or the run ends."""
        for peer, test in self._tests.items():
            self._keep(peer, test, at_once=True)

    # -- within ------------------------------------------------------------------------------

    def _name(self, peer: str, what: str) -> str:
        return f"{what} {self._measure} {self.limit!r} {peer}"

    def _place(self, number: int | None) -> bytes:
        """Return the place of a batch in the task, where it stands again after a rollback."""
        run = self._run
        return run.agreement.run + f"{run.party.phase} {run.round} {number} ".encode()

    def _test(self, peer: str) -> LeakTest:
        if peer not in self._tests:
            kept = self._run.opened_ledger().evidence(self._name(peer, "leak"))
            self._tests[peer] = LeakTest(self.limit, kept)
        return self._tests[peer]

    def _keep(self, peer: str, test: LeakTest, *, at_once: bool) -> None:
        """Write the evidence if it has grown since, or from time to time."""
        since = self._since[peer] = self._since.get(peer, 0) + 1
        grown = test.evidence > self._kept.get(peer, 0.0) + 1
        if at_once or grown or since >= KEPT_EVERY:
            self._run.opened_ledger().keep_evidence(self._name(peer, "leak"), test.state)
            self._kept[peer], self._since[peer] = max(test.evidence, 0.0), 0

    def _raise(self, peer: str, test: LeakTest, found: Found) -> None:
        ledger = self._run.opened_ledger()
        self._raised[peer] = ledger.count(TASK, self._name(peer, "raised"))
        test.begin_anew()
        self._keep(peer, test, at_once=True)
        self._kept[peer] = 0.0
        logger.warning(
            "%s for %s came to %.3f, and the limit is %g: the defence is raised (%d of %d)",
            WHAT[self._measure],
            peer,
            found.mean,
            self.limit,
            self._raised[peer],
            MOST_RAISES,
        )

    def _too_much(self, peer: str, found: Found) -> LeakLimitError:
        sure, attack = 100 * (1 - ALPHA), found.attack.split()[0]  # without the number of a class
        return LeakLimitError(
            f"{WHAT[self._measure]} for {peer} came to {found.mean:.3f} on average over"
            f" {found.count} measurements ({attack}), which is above the limit with"
            f" {sure:g} % confidence: max_{self._measure} of the terms is {self.limit:g}. The batch"
            " that showed it was not sent. What was trained so far is in the last checkpoint; for"
            " more, agree on a new task with a defence or another limit",
            party=self._run.party.name,
            measure=self._measure,
            value=found.mean,
            limit=self.limit,
        )
