"""Counts what the updates of a party that trains by DP-SGD reveal, over all runs of the task.

The count is in the ledger, which no checkpoint and no restart takes back, and it is written before
an update is sent. So a round that was trained twice counts twice.
"""

from __future__ import annotations

import math

from heterofed.errors import ConfigError, ReleaseLimitError
from heterofed.homo_nn.hooks import HomoCollaboratorHooks
from heterofed.privacy.dpsgd import DPSGD, weights_epsilon
from heterofed.privacy.release_costs import Cost, Shared, Totals
from heterofed.runs.recorded import record_row
from heterofed.runs.run import Run
from heterofed.runs.settings import ReleaseLimits

ANY_ROW = "any row"
"""The name in the ledger under which each row is counted, because all rows cost the same."""


class NoiseAccount:
    """The account of one party.

    Args:
        owner: the scheduler.
        run: the run, whose parties are connected.
        defence: the DP-SGD of this party.
        limits: the limits of this party's user.
    """

    def __init__(
        self, owner: HomoCollaboratorHooks, run: Run, defence: DPSGD, limits: ReleaseLimits
    ) -> None:
        self._owner, self._run, self._defence, self._limits = owner, run, defence, limits
        self._before = 0

    def begin_round(self) -> None:
        """Note the steps so far, and forget the batches that were drawn in an earlier round."""
        self._before = self._defence.steps
        self._run.state.sampling = None

    def charge(self, rows: int) -> None:
        """Count the steps of a round whose update is about to be sent.

        Args:
            rows: the number of rows that the hook said it was trained on.

        Raises:
            ConfigError: the steps are not those of the batches that were drawn.
            ReleaseLimitError: epsilon would exceed `max_epsilon`; nothing was sent.
        """
        steps = self._defence.steps - self._before
        cost, shared = self._cost(steps, rows)
        ledger = self._run.opened_ledger()
        ledger.charge("train", [ANY_ROW], cost, shared, self._check)
        epsilon, delta = self._epsilon(ledger.totals()), self._defence.delta
        row = {"eps_weights": epsilon, "delta": delta}
        record_row(self._run, type(self._owner), "privacy", row)

    def _cost(self, steps: int, rows: int) -> tuple[Cost, Shared]:
        defence, drawn = self._defence, self._run.state.sampling
        if steps == 0:
            raise ConfigError(
                "train_a_round took no step of self.optimizer, which adds the noise: train with it"
            )
        if not defence.poisson:
            if drawn is not None:
                raise ConfigError(
                    "DPSGD(poisson=False), but self.poisson_batches draws the batches; give"
                    " poisson=True"
                )
            defence.take_rows(rows)
            passes = math.ceil(steps / math.ceil(rows / defence.batch_size))
            return Cost(weights=defence.squared_mu * passes), Shared()
        if drawn is None:
            raise ConfigError(
                "DPSGD(poisson=True), but train_a_round does not use self.poisson_batches; use it,"
                " or leave poisson out"
            )
        defence.take_rows(drawn.ids)
        if drawn.batch_size != defence.batch_size or steps != len(drawn.sizes):
            raise ConfigError(
                f"DPSGD(batch_size={defence.batch_size}): {steps} steps in a round of"
                f" {len(drawn.sizes)} batches of {drawn.batch_size}; make one step for each batch"
                " that self.poisson_batches drew, with the same batch_size"
            )
        return Cost(), Shared(draw=defence.draw(steps))

    def _epsilon(self, totals: Totals) -> float:
        return weights_epsilon(totals.draws, totals.most.weights, self._defence.delta)

    def _check(self, totals: Totals) -> None:
        most, epsilon = self._limits.max_epsilon, self._epsilon(totals)
        if most is None or epsilon <= most:
            return
        party = self._run.party.name
        raise ReleaseLimitError(
            f"eps_weights of {party} would come to {epsilon:.6g}, over all runs of this task, and"
            f" max_epsilon is {most:g}; nothing of this has left. What was trained so far is in the"
            " last checkpoint; raise the limit only if you mean to tell more",
            party=party,
            measure="eps_weights",
            value=epsilon,
            limit=most,
        )
