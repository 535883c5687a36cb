"""Keeps the staleness of a run at the Host: what the plan says, or what is chosen and announced.

A choice depends on time, so it is made once, kept in checkpoints, and announced. Parts of a round
begin with nothing in flight, so any staleness may be announced with them. Within one it only rises,
after a measurement.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from heterofed.compute.pace import PROBE_BATCHES, Pace, has_got_worse, loss_of
from heterofed.hetero_nn.train.joint_batch import JointBatch
from heterofed.runs.run import Run
from heterofed.runs.state import Kept

logger = logging.getLogger("heterofed")


class Pacing:
    """The staleness of a run.

    Args:
        run: the run of the Host.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._pace = run, Pace()

    @property
    def _kept(self) -> Kept:
        return self._run.state.kept

    @property
    def _chooses(self) -> bool:
        return self._run.plan.max_staleness == "auto"

    def begin(self, first: int) -> int:
        """Return the staleness with which a part of a round begins, at batch `first`."""
        agreed, kept = self._run.plan.max_staleness, self._kept
        if agreed != "auto":
            return agreed
        measures = kept.measured_from is not None
        steps = 0 if measures else kept.staleness or 0
        if kept.measured_from == first:
            self._pace.measure()
        self._pace.begin(steps, measures=measures)
        return steps

    def note(self, batch: JointBatch) -> None:
        """Note that a batch of all parties has arrived."""
        if self._chooses:
            party = self._run.party
            now = party.clock()
            busy = now - sum(party.counts.waits.values())
            self._pace.note(now, busy, max(each.work for each in batch.theirs))

    def before(self, number: int) -> int | None:
        """Return the staleness to announce before batch `number`, or None if it does not change
        then.
        """
        begun = self._kept.measured_from
        if not self._chooses or begun is None or number != begun + PROBE_BATCHES:
            return None
        self._choose()
        return self._kept.staleness

    def end(self, following: int) -> None:
        """Note that a part of a round has ended, and settle how the next one begins.

        Args:
            following: the number of the batch that comes next, 0 if it is of the next round.
        """
        kept = self._kept
        if not self._chooses:
            return
        if kept.measured_from is not None:
            if not following and self._pace.has_measured:  # with fewer batches than usual
                self._choose()
            return
        before = kept.staleness or 0
        kept.staleness, measures = self._pace.review(before)
        if kept.staleness != before:
            logger.info("chose max_staleness=%d: more does not save time", kept.staleness)
        if measures and kept.most_staleness:
            kept.measured_from = following

    def end_round(self, losses: Sequence[float]) -> None:
        """Note that a round has ended, and lower the largest staleness if it made the loss worse.

        A round that is better than the one before it recovers, and lowers nothing.

        Args:
            losses: the loss of each batch of the round, as far as `train_a_batch` returned it.
        """
        kept = self._kept
        used = 0 if kept.measured_from is not None else kept.staleness or 0
        self.end(0)
        if not self._chooses or not losses:
            return
        loss, best, last = loss_of(losses), kept.best_loss, kept.last_loss
        recovers = last is not None and loss[0] < last
        if used and best is not None and not recovers and has_got_worse(losses, best):
            self._fall_back(used // 2, loss[0], best[0])
        if best is None or loss[0] < best[0]:
            kept.best_loss = loss
        kept.last_loss = loss[0]

    def _fall_back(self, most: int, loss: float, best: float) -> None:
        kept = self._kept
        kept.most_staleness = most
        kept.staleness = min(most, kept.staleness or 0)
        if not most:
            kept.measured_from = None
        logger.warning(
            "the mean loss of round %d is %.4g after %.4g in an earlier one, with weights some"
            " steps old: max_staleness is at most %d from now on",
            self._run.round,
            loss,
            best,
            most,
        )

    def _choose(self) -> None:
        kept, before = self._kept, self._kept.staleness
        foretold = self._run.state.foretold_staleness
        chosen = self._pace.choose() if foretold is None else foretold
        kept.staleness, kept.measured_from = min(chosen, kept.most_staleness), None
        how = logging.DEBUG if kept.staleness == before else logging.INFO
        logger.log(how, "chose max_staleness=%d: a batch took %s", kept.staleness, self._pace)
