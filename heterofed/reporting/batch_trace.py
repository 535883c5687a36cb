"""Traces one batch of each round: who computed and what travelled, and when.

It listens to the account of costs only while that batch runs, so that all others cost one call of
an empty function per measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from heterofed.events import Event, PhaseBegan, PhaseEnded, Progressed
from heterofed.reporting.costs import Account, Work, unheard
from heterofed.reporting.journal_records import MAX_SPANS, Batch, Span

SECOND = 2
"""The batch that is traced: the first one also has what a round begins with."""


class BatchTrace:
    """Traces the second batch of each round, or the first one where there is no second.

    Args:
        account: the costs of the run; its `hear` is taken while a batch is traced.
        clock: seconds that only go up.
    """

    def __init__(self, account: Account, clock: Callable[[], float] = time.perf_counter) -> None:
        self._account, self._clock = account, clock
        self._spans: list[Span] = []
        self._began = 0.0
        self._round = 0
        self._last: Batch | None = None

    def __call__(self, event: Event) -> Batch | None:
        """Take an event; return the batch of a round once it is known."""
        match event:
            case PhaseBegan(phase="train", round=number):
                self._round, self._last = number, None
                self._listen()
            case Progressed(done) if self.is_listening:
                self._last = self._traced()
                if done < SECOND:
                    self._listen()
                    return None
                return self._handed_over()
            case PhaseEnded(phase="train"):
                return self._handed_over()
            case PhaseBegan() | PhaseEnded():
                self._account.hear = unheard
            case _:
                pass
        return None

    @property
    def is_listening(self) -> bool:
        """Whether a batch is being traced."""
        return self._account.hear is not unheard

    def _listen(self) -> None:
        self._spans, self._began = [], self._clock()
        self._account.hear = self._hear

    def _hear(self, work: Work, party: str, seconds: float, size: int) -> None:
        if len(self._spans) < MAX_SPANS:
            end = max(0.0, self._clock() - self._began)
            self._spans.append(Span(work, party, round(end, 6), round(max(0.0, seconds), 6), size))

    def _traced(self) -> Batch:
        seconds = max(0.0, self._clock() - self._began)
        return Batch(
            at=time.time(), round=self._round, seconds=round(seconds, 6), spans=self._spans
        )

    def _handed_over(self) -> Batch | None:
        batch, self._last = self._last, None
        self._account.hear = unheard
        return batch
