"""Keeps where a task is at one party, what that has cost, and who hears of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from heterofed.events import Callback, Event, PhaseBegan, PhaseEnded, Progressed, hears_progress
from heterofed.messaging.peer import Peer
from heterofed.messaging.timing import Computing, Encoding
from heterofed.reporting.costs import Account, Direction
from heterofed.reporting.diagnostics import place_of, shielded

logger = logging.getLogger("heterofed")


class Stage:
    """The current place of one party in a task.

    Args:
        name: the feature key of this party.
        callbacks: functions that get every event; one that raises an error is logged and not called
            again.
        account: the costs of the task so far, if the parties connected before.
        clock: returns a monotonic time in seconds.

    Attributes:
        phase, round, batch: the current place in the task, for messages and errors.
        bytes_sent, bytes_received: what went over the party's connections.
        account: the costs of the task so far; its methods never raise.
        counts: the same, to read what it has counted.
    """

    def __init__(
        self,
        name: str,
        *,
        callbacks: Sequence[Callback] = (),
        account: Account | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.clock = clock
        self.phase = "join"
        self.round = 0
        self.batch: int | None = None
        self.bytes_sent = self.bytes_received = 0
        self.counts = account or Account(name)
        self.account = shielded(lambda: self.counts, "comm.csv")
        self._callbacks = [(each, hears_progress(each)) for each in callbacks]

    @contextmanager
    def in_phase(
        self,
        phase: str,
        *,
        round_number: int = 0,
        total: int | None = None,
        unit: str = "",
    ) -> Iterator[None]:
        """Note that the task is in `phase` (of a round) within the block, and record its cost."""
        self.phase, self.round, self.batch = phase, round_number or self.round, None
        began, sent, received = self.clock(), self.bytes_sent, self.bytes_received
        account = self.account
        compute, encode, waits = account.compute, account.encode, dict(account.waits)
        self.emit(PhaseBegan(phase, total, unit, round_number))
        yield
        self.batch = None
        self.emit(
            PhaseEnded(
                phase,
                self.clock() - began,
                self.bytes_sent - sent,
                self.bytes_received - received,
                round_number,
                account.compute - compute,
                account.encode - encode,
                {
                    name: each - waits.get(name, 0.0)
                    for name, each in account.waits.items()
                    if each > waits.get(name, 0.0)
                },
            )
        )

    def computing(self) -> AbstractContextManager[None]:
        """Count the time of a block as this party's own work, without what is counted within it."""
        return Computing(self)

    def encoding(self, peer: Peer, direction: Direction) -> AbstractContextManager[None]:
        """Count the time of a block as encoding or decoding messages of a peer."""
        return Encoding(self, peer.name, direction)

    def progress(self, done: int, total: int | None = None) -> None:
        """Report that `done` units of the phase are done."""
        self.emit(Progressed(done, total))

    def emit(self, event: Event) -> None:
        """Pass an event to the callbacks."""
        is_progress = isinstance(event, Progressed)
        for callback, hears in self._callbacks:
            if is_progress and not hears:
                continue
            try:
                callback(event)
            except Exception as error:
                self._callbacks = [each for each in self._callbacks if each[0] is not callback]
                logger.warning(
                    "a callback raised an error (%s) and is not called again", place_of(error)
                )
