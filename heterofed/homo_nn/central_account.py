"""Counts what noisy averages reveal of the worst party, over all runs of the task.

The count is in the ledger of the Host, which no checkpoint and no restart takes back, and it is
written before an average is sent. So a round that was trained twice counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from heterofed.errors import ReleaseLimitError
from heterofed.homo_nn.central_dp import CentralDP
from heterofed.homo_nn.hooks import HomoHostHooks
from heterofed.privacy.accountant import composed_epsilon
from heterofed.privacy.release_costs import Cost, Totals
from heterofed.runs.recorded import record_row
from heterofed.runs.run import Run


class CentralAccount:
    """The account of the Host.

    Args:
        owner: the Host's scheduler.
        run: the run.
        defence: the defence of the Host.
        max_epsilon: the largest epsilon of all runs together; None sets no limit.
    """

    def __init__(
        self, owner: HomoHostHooks, run: Run, defence: CentralDP, max_epsilon: float | None
    ) -> None:
        self._owner, self._run, self._defence, self._most = owner, run, defence, max_epsilon

    def charge(self, parties: Sequence[str]) -> None:
        """Count a round whose average is about to be sent.

        Raises:
            ReleaseLimitError: epsilon would exceed `max_epsilon`; nothing was sent.
        """
        ledger, delta = self._run.opened_ledger(), self._defence.delta
        cost = Cost(weights=self._defence.squared_mu)
        ledger.charge("train", parties, cost, check=self._check)
        row = {"eps_parties": self._epsilon(ledger.totals()), "delta": delta}
        record_row(self._run, type(self._owner), "privacy", row)

    def _epsilon(self, totals: Totals) -> float:
        return composed_epsilon(totals.most.weights, self._defence.delta)

    def _check(self, totals: Totals) -> None:
        epsilon = self._epsilon(totals)
        if self._most is None or epsilon <= self._most:
            return
        raise ReleaseLimitError(
            f"eps_parties would come to {epsilon:.6g}, over all runs of this task, and max_epsilon"
            f" is {self._most:g}; no average of this round has left. What was trained so far is in"
            " the last checkpoint; raise the limit only if you mean to tell more",
            party=self._run.party.name,
            measure="eps_parties",
            value=epsilon,
            limit=self._most,
        )
