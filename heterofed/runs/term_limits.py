"""Enforces the limits of the terms that count: bytes, rounds, ids and rows of a batch."""

from __future__ import annotations

from heterofed.errors import LeakLimitError
from heterofed.messaging.taps import Tap
from heterofed.protocol.messages import Abort, Message, Waiting
from heterofed.runs.run import Run

TASK = b""
"""Stands in the ledger for all runs of a task."""

RESERVATIONS = 256
"""Bytes are counted on disk in up to so many parts of the limit. A killed party has counted up to
one part too much."""


def too_much(run: Run, what: str, measure: str, value: float, *, least: bool = False) -> None:
    """Compare a value with its limit in the terms.

    Args:
        run: the run, whose parties are connected.
        what: the value in words.
        measure: the name of the limit, without `max_` or `min_`.
        value: the value that would be reached.
        least: whether the limit is the smallest value, not the largest.

    Raises:
        LeakLimitError: the value is beyond the limit.
    """
    name = f"{'min' if least else 'max'}_{measure}"
    limit = getattr(run.plan.limits, name)
    if limit is None or (value >= limit if least else value <= limit):
        return
    raise LeakLimitError(
        f"{what} would come to {value:.6g}, and {name} of the terms is {limit:g}; nothing of this"
        " was sent. If that is right for all parties, agree on a new task with other limits",
        party=run.party.name,
        measure=measure,
        value=value,
        limit=limit,
    )


def check_enough(run: Run, common: int) -> None:
    """Check that enough ids are common to all parties.

    Raises:
        LeakLimitError: there are fewer than `min_intersection`.
    """
    too_much(run, "the number of common ids", "intersection", common, least=True)


def count_round(run: Run) -> None:
    """Count a round that begins, over all runs of the task.

    Raises:
        LeakLimitError: there would be more than `max_rounds` of the terms.
    """
    if run.plan.limits.max_rounds is None:
        return
    what = "the number of rounds of all runs, repeated ones included,"

    def one(counted: int) -> int:
        too_much(run, what, "rounds", counted + 1)
        return 1

    run.opened_ledger().count_within(TASK, "rounds", one)


def limit_bytes(run: Run) -> None:
    """Let the bytes that this party sends from now on be counted, if the terms limit them."""
    if (limit := run.plan.limits.max_bytes) is not None:
        run.party.taps.append(BytesLimit(run, limit))


class BytesLimit(Tap):
    """Counts the bytes that this party sends, over all runs of the task, before they leave.

    Args:
        run: the run.
        limit: the most bytes.
    """

    def __init__(self, run: Run, limit: int) -> None:
        self._run, self._limit = run, limit
        self._left = 0

    def leaves(self, peer: str, message: Message, size: int) -> None:
        """See `Tap`.

        Raises:
            LeakLimitError: the message would exceed the limit.
        """
        del peer
        if isinstance(message, Abort | Waiting):  # they say how the task goes, and nothing of data
            return
        if size > self._left:
            self._reserve(size - self._left)
        self._left -= size

    def _reserve(self, size: int) -> None:
        what = "the number of bytes that this party sends in all runs"

        def part(spent: int) -> int:
            too_much(self._run, what, "bytes", spent + size)
            return min(max(size, self._limit // RESERVATIONS), self._limit - spent)

        before, now = self._run.opened_ledger().count_within(TASK, "bytes", part)
        self._left += now - before
