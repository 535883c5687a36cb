"""Charges releases to the ledger before anything about a row is sent, and computes their epsilons.

The loops report that a batch is about to be sent. This module knows what the batch costs, and
whether this party's user allows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from heterofed.compute.plain import Strings, are_plain
from heterofed.errors import LeakLimitError, ReleaseLimitError
from heterofed.privacy.accountant import composed_epsilon
from heterofed.privacy.dpsgd import DPSGD, weights_epsilon
from heterofed.privacy.embedding_defences import ClippedGaussian
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.passes import Pass
from heterofed.privacy.release_costs import NOTHING_SHARED, Cost, Shared, Totals
from heterofed.runs.run import Run
from heterofed.runs.settings import ReleaseLimits
from heterofed.runs.term_limits import too_much

DELTA = 1e-5
"""The delta of the epsilon of embeddings that are sent without noise; it is infinite anyway."""

ANY = ""
"""The name that stands for any set of labels."""

UNTURNED = ANY, b"labels as they are", math.inf
"""The name, identifier and epsilon of labels that are sent without randomised response."""


class Releases:
    """The releases of one party in a run.

    Args:
        run: the run, whose parties are connected.
        limits: the limits of this party's user.
        weights: the DP-SGD of this party, if it trains by it.
    """

    def __init__(self, run: Run, limits: ReleaseLimits, weights: DPSGD | None) -> None:
        self._run = run
        self._limits = limits
        self._weights = weights
        self._passing: Pass | None = None
        self._steps_before = self._steps_paid = 0
        self.totals: Totals = run.opened_ledger().totals()

    def leaves(self, ids: Sequence[str] | None, rows: int) -> None:
        """Count a batch that is about to be sent, unless its pass has already been charged for it.

        Args:
            ids: the ids of the rows of the batch, if the hook gives them.
            rows: the number of rows in the batch.

        Raises:
            ReleaseLimitError: more would be sent than this party's user allows.
            LeakLimitError: more would be sent than the terms allow, or the batch is too small.
            LedgerError: the ledger cannot be written.
        """
        passing = self._run.passing
        if passing is None:
            return
        if passing.kind != "predict":
            too_much(self._run, "the number of rows of a batch", "batch", rows, least=True)
        self.settle()
        steps = 0
        if passing is not self._passing:
            self._passing = passing
            self._steps_before = self._weights.steps if self._weights else 0
            self._steps_paid = steps = self._steps_drawn(passing)
        most = self._run.state.most_drawn.pop(passing.kind, 1)  # how often a row was drawn
        for charged, times in passing.takes(_names(ids), rows, most):
            self._charge(passing, charged, self._cost(passing) * times, steps)
            steps = 0

    def settle(self) -> None:
        """Charge more DP-SGD steps than one per batch; their changes have not been sent yet."""
        if self._weights is None or self._passing is None or self._passing.kind != "train":
            return
        made, drawn = self._weights.steps - self._steps_before, self._weights.poisson
        paid = max(self._steps_paid, self._passing.batches)
        if made > paid:
            times = math.ceil((made - paid) / max(1, self._passing.batches))
            cost = Cost(weights=0.0 if drawn else self._weights.squared_mu * times)
            self._charge(self._passing, self._passing.ids, cost, made - paid if drawn else 0)
            self._steps_paid = made

    def epsilons(self, totals: Totals | None = None) -> dict[str, float]:
        """Return the epsilons so far, by column of `privacy.csv` for which this party has a
        defence.
        """
        totals = totals or self.totals
        told = self._own_epsilons(totals)
        if self._weights is not None:
            told["eps_weights"] = weights_epsilon(
                totals.draws, totals.most.weights, self._weights.delta
            )
        return told

    # -- for the roles -----------------------------------------------------------------------

    def _cost(self, passing: Pass) -> Cost:
        """Return the cost of one release of a row."""
        raise NotImplementedError

    def _shared(self) -> tuple[str, bytes, float] | None:
        """Return which labels are released, the identifier of their random choices and their
        epsilon.
        """
        return None

    def _own_epsilons(self, totals: Totals) -> dict[str, float]:
        raise NotImplementedError

    def _certain_epsilons(self, totals: Totals) -> dict[str, float]:
        """Return the same epsilons of everything that the ledger has, whatever defence there is
        now; they are infinite if something was sent without one.
        """
        raise NotImplementedError

    def _weights_cost(self, passing: Pass) -> float:
        """Return the cost of one DP-SGD step if the rows of each batch are known."""
        if self._weights is None or passing.kind != "train" or self._weights.poisson:
            return 0.0
        return self._weights.squared_mu

    # -- within ------------------------------------------------------------------------------

    def _charge(self, passing: Pass, ids: Sequence[str], cost: Cost, steps: int) -> None:
        state = self._run.state
        whole = {"train": state.train_ids, "test": state.test_ids}.get(passing.kind, [])
        if ids is passing.ids and len(ids) == len(whole):
            ids = whole  # the same ids, in the order that the ledger knows
        draw = self._weights.draw(steps) if self._weights and steps else None
        shared = Shared(draw, self._shared())
        if cost == Cost() and shared == NOTHING_SHARED:
            return  # a round whose results nobody gets
        ledger = self._run.opened_ledger()
        ledger.charge(passing.kind, ids, cost, shared, self._check)
        self.totals = ledger.totals()

    def _steps_drawn(self, passing: Pass) -> int:
        """Return the number of batches that were drawn for this round for DP-SGD; else 0."""
        if self._weights is None or not self._weights.poisson or passing.kind != "train":
            return 0
        drawn = self._run.state.sampling
        return len(drawn.sizes) if drawn else 0

    def _check(self, totals: Totals) -> None:
        """Compare the totals with the limits of the terms and of this party's user."""
        self._check_terms(totals)
        limits = self._limits
        if limits.max_releases_per_row is not None:
            self._within("releases_per_row", totals.most.sent, limits.max_releases_per_row)
        if limits.max_epsilon is not None:
            for measure, epsilon in self.epsilons(totals).items():
                self._within(measure, epsilon, limits.max_epsilon)

    def _check_terms(self, totals: Totals) -> None:
        found = self.epsilons(totals) | self._certain_epsilons(totals)
        found["releases_per_row"] = totals.most.sent
        for measure, value in found.items():
            limit = self._run.plan.limits.of(measure)
            if limit is not None and value > limit:
                raise LeakLimitError(
                    f"{measure} of {self._run.party.name} would come to {value:.6g}, over all runs"
                    f" of this task, and max_{measure} of the terms is {limit:g}; nothing of this"
                    " has left. What was trained so far is in the last checkpoint; for more, agree"
                    " on a new task",
                    party=self._run.party.name,
                    measure=measure,
                    value=value,
                    limit=limit,
                )

    def _within(self, measure: str, value: float, limit: float) -> None:
        if value <= limit:
            return
        party = self._run.party
        setting = "max_releases_per_row" if measure == "releases_per_row" else "max_epsilon"
        raise ReleaseLimitError(
            f"{measure} of {party.name} would come to {value:.6g}, over all runs of this task, and"
            f" {setting} is {limit:g}; nothing of this has left. What was trained so far is in the"
            " last checkpoint; raise the limit only if you mean to tell more",
            party=party.name,
            measure=measure,
            value=value,
            limit=limit,
        )


def _names(ids: object) -> list[str] | None:
    """Return the ids of a batch, or None if they are invalid; their comparison refuses those
    later.
    """
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        return None
    if isinstance(ids, Strings):
        return ids
    return list(ids) if are_plain(ids) or all(isinstance(each, str) for each in ids) else None


class EmbeddingReleases(Releases):
    """The releases of a Collaborator: embeddings, and through them the weights that computed them.

    Args:
        run: the run, whose parties are connected.
        limits: the limits of this party's user.
        weights: the DP-SGD of this party, if it trains by it.
        noise: the noise on the embeddings, if there is any.
    """

    def __init__(
        self,
        run: Run,
        limits: ReleaseLimits,
        weights: DPSGD | None,
        noise: ClippedGaussian | None,
    ) -> None:
        self._noise = noise
        super().__init__(run, limits, weights)

    def _cost(self, passing: Pass) -> Cost:
        squared = self._noise.squared_mu if self._noise else math.inf
        return Cost(1, squared, self._weights_cost(passing))

    def _own_epsilons(self, totals: Totals) -> dict[str, float]:
        if self._noise is None:
            return {}
        return {"eps_embeddings": composed_epsilon(totals.most.embeddings, self._noise.delta)}

    def _certain_epsilons(self, totals: Totals) -> dict[str, float]:
        delta = self._noise.delta if self._noise else DELTA
        return {"eps_embeddings": composed_epsilon(totals.most.embeddings, delta)}


class GradientReleases(Releases):
    """The releases of a Host: gradients, and through them the labels.

    Args:
        run: the run, whose parties are connected.
        limits: the limits of this party's user.
        weights: the DP-SGD of this party, if it trains by it.
        labels: the randomised response on labels, if there is one.
        each: the number of gradients of a row that are sent for one batch.
    """

    def __init__(
        self,
        run: Run,
        limits: ReleaseLimits,
        weights: DPSGD | None,
        labels: RandomisedResponse | None,
        each: int,
    ) -> None:
        self._labels = labels
        self._each = each
        self._listening = True
        super().__init__(run, limits, weights)

    def steps(self, ids: Sequence[str] | None, rows: int, *, listening: bool) -> None:
        """Count a batch that is about to be trained on; its gradients are sent if a party receives
        them.

        Raises:
            ReleaseLimitError, LedgerError: see `Releases.leaves`.
        """
        self._listening = listening
        self.leaves(ids, rows)

    def _cost(self, passing: Pass) -> Cost:
        return Cost(self._each * self._listening, 0.0, self._weights_cost(passing))

    def _shared(self) -> tuple[str, bytes, float] | None:
        if not self._listening:
            return None
        labels = self._labels
        return (labels.label_set, labels.coins, labels.epsilon) if labels else UNTURNED

    def _own_epsilons(self, totals: Totals) -> dict[str, float]:
        if self._labels is None:
            return {}
        mine = (ANY, self._labels.label_set)
        return {"eps_labels": math.fsum(each for name, each in totals.labels if name in mine)}

    def _certain_epsilons(self, totals: Totals) -> dict[str, float]:
        return {"eps_labels": math.fsum(each for _name, each in totals.labels)}
