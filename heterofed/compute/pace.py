"""Chooses the staleness from measured times, and takes it back where it costs accuracy.

It knows numbers alone: no clock, no peer and no tensor.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

MOST_CHOSEN = 16
"""The largest staleness that is chosen automatically; more costs accuracy and seldom saves time."""

PROBE_BATCHES = 8
"""The batches of a measurement, which are trained without staleness."""

SLACK = 1.25
"""The factor by which a batch may take longer than measured before a party waits."""

MOST_COST = 0.01
"""The part of the time that measurements take if nothing has changed."""

MOST_COST_OF_CHANGES = 0.1
"""The part of the time that measurements take if a batch takes another time than before."""

LAST_BATCHES = 512
"""The number of batches whose times are remembered."""

CERTAIN = 3.0
"""The number of standard errors by which a loss has to be worse than an earlier one."""


def least_staleness(cycle: float, work: float) -> int:
    """Return the least staleness with which no party should wait, from 0 to `MOST_CHOSEN`.

    Args:
        cycle: the seconds of a whole batch without staleness.
        work: the seconds that the busiest party or link needs for one batch.
    """
    return min(MOST_CHOSEN, max(0, math.ceil(SLACK * cycle / work) - 1)) if work > 0 else 0


class Times:
    """The times between batches and the work on them, of batches with one staleness."""

    def __init__(self, left_out: int = 0) -> None:
        self._left_out = left_out
        self._between = deque[float](maxlen=LAST_BATCHES)
        self._work = deque[float](maxlen=LAST_BATCHES)

    def add(self, between: float, work: float) -> None:
        """Add a batch, unless it is one of the first ones, which are left out."""
        if self._left_out:
            self._left_out -= 1
            return
        self._between.append(between)
        self._work.append(work)

    def __len__(self) -> int:
        return len(self._between)

    def typical(self) -> tuple[float, float]:
        """Return the medians of the time between two batches and of the work, in seconds."""
        if not self._between:
            return 0.0, 0.0
        return statistics.median(self._between), statistics.median(self._work)


class Pace:
    """Chooses the staleness, and says when to measure again.

    A batch without staleness takes one full cycle: the forward pass at the Collaborator, the
    transfer to the Host, the step there, the transfer back, and the backward pass and step. With k
    more batches in flight, one arrives in 1/(k+1) of this time, or in the time that the busiest
    party or link needs for one batch, whichever is longer. So the first `PROBE_BATCHES` batches are
    trained without staleness, and timed.

    What follows is compared with that. A batch that takes longer at once is held up by something
    that no party counts, such as a narrow link, and more staleness would not help. A batch that
    takes another time later means that a link or a party has changed, and it is measured again. So
    it is from time to time without such a sign, because a link that got faster gives none.
    """

    def __init__(self) -> None:
        self._times, self._last = Times(), (0.0, 0.0)
        self._begins = True
        self._cycle = self._busiest = 0.0
        self._usual: float | None = None
        self._steps = 0
        self._since = 0.0

    def begin(self, steps: int, *, measures: bool = False) -> None:
        """Note that batches begin, with this staleness, and nothing in flight.

        Args:
            steps: the staleness.
            measures: whether these batches measure, and others of this measurement came before.
        """
        self._begins = True
        if not measures:
            self._follow(steps)

    def measure(self) -> None:
        """Begin a measurement."""
        self._times, self._begins = Times(), True

    def note(self, now: float, own: float, others: float) -> None:
        """Note that a whole batch has arrived.

        Args:
            now: the current time in seconds, on any clock.
            own: the seconds that this party has been busy so far.
            others: the seconds that the busiest other party or link worked for this batch.
        """
        if not self._begins:
            between, busy = now - self._last[0], own - self._last[1]
            self._times.add(between, max(busy, others))
            self._since += between
        self._last, self._begins = (now, own), False

    @property
    def has_measured(self) -> bool:
        """Whether there are times to choose from."""
        return len(self._times) > 0

    def choose(self) -> int:
        """Return the staleness that the measurement suggests, which holds from now on."""
        self._cycle, self._busiest = self._times.typical()
        self._usual, self._since = None, 0.0
        chosen = least_staleness(self._cycle, self._busiest)
        self._follow(chosen)
        return chosen

    def review(self, steps: int) -> tuple[int, bool]:
        """Return the staleness of the next batches, and whether to measure before it.

        Args:
            steps: the staleness of the last batches.
        """
        seen, _ = self._times.typical()
        if len(self._times) < PROBE_BATCHES:
            return steps, False
        if not self._cycle:  # the measurement was before a restart
            return steps, True
        if self._usual is None or steps != self._steps:
            self._usual, self._steps = seen, steps
            if seen <= SLACK * max(self._busiest, self._cycle / (steps + 1)):
                return steps, False
            if seen < self._cycle:
                return min(steps, least_staleness(self._cycle, seen)), False
            return steps, steps > 0  # even an exact batch took less time: something has changed
        has_changed = not self._usual / SLACK <= seen <= self._usual * SLACK
        most = MOST_COST_OF_CHANGES if has_changed else MOST_COST
        cost = PROBE_BATCHES * max(0.0, self._cycle - seen)
        return steps, (has_changed or steps > 0) and cost <= most * self._since

    def __str__(self) -> str:
        return f"{1e3 * self._cycle:.1f} ms, {1e3 * self._busiest:.1f} ms at the busiest party"

    def _follow(self, steps: int) -> None:
        # Those in flight at first came without the wait of a whole cycle.
        self._times = Times(left_out=steps + 1)


Loss = tuple[float, float]
"""The mean loss of a round, and its standard error."""


def loss_of(losses: Sequence[float]) -> Loss:
    """Return the mean loss of the batches of a round, and its standard error."""
    mean = statistics.fmean(losses)
    spread = statistics.stdev(losses) if len(losses) > 1 and math.isfinite(mean) else math.inf
    return mean, spread / math.sqrt(len(losses))


def has_got_worse(losses: Sequence[float], best: Loss) -> bool:
    """Return whether a round is worse than the best one before it, by more than differences between
    batches explain.

    Where the loss grows from batch to batch, it is as spread as it is large, and the error of its
    mean says nothing. Then the median batch is worse than the worst batches of the best round.

    Args:
        losses: the loss of each batch of the round.
        best: the loss of the best round, which had as many batches.
    """
    mean, error = loss_of(losses)
    if not math.isfinite(mean):
        return True
    spread = best[1] * math.sqrt(len(losses)) if len(losses) > 1 else math.inf
    return (
        mean - best[0] > CERTAIN * math.hypot(error, best[1])
        or statistics.median(losses) - best[0] > CERTAIN * spread
    )
