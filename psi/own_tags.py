"""Computes the signer's own tags in background threads.

Half of the signer's work needs nothing from the peer. It is done in small slices while the
requester blinds and while bytes travel, and it pauses whenever a chunk of the peer is signed. This
module does not know how a tag is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition

from psi.storage.id_list import OwnIds
from psi.workers import shared_pool

_MOMENT = 0.2  # seconds; to queue each slice by itself would start a thread for each
Compute = Callable[[list[str]], bytes]
Deliver = Callable[[Sequence[int], bytes], None]


class OwnTags:
    """Computes the pairs (tag, match proof) of the own ids, slice by slice.

    Args:
        ids: the ids.
        todo: the positions of the ids that have no pair yet.
        compute: returns the pairs of the ids of a slice, joined in their order.
        deliver: takes the positions of a slice and its pairs; it is never called concurrently.
        workers: the number of slices that are computed concurrently.
        slice_ids: the number of ids in a slice; the peer waits for one slice at most.
    """

    def __init__(
        self,
        ids: OwnIds,
        todo: Sequence[int],
        compute: Compute,
        deliver: Deliver,
        workers: int,
        slice_ids: int,
    ) -> None:
        self._ids, self._compute, self._deliver = ids, compute, deliver
        self._slices = (todo[at : at + slice_ids] for at in range(0, len(todo), slice_ids))
        self._done = len(ids) - len(todo)
        self._failure: BaseException | None = None
        self._aside = 0
        self._stopping = False
        self._changed = Condition()
        self._needed = min(workers, -(-len(todo) // slice_ids))
        self._running = 0  # workers that have not ended
        self._started = False

    def start(self) -> None:
        """Start the computation. A second call has no effect."""
        if not self._started:
            self._started = True
            self._running = self._needed
            for _ in range(self._needed):
                self._submit()

    @contextmanager
    def step_aside(self) -> Iterator[None]:
        """Start no new slice while the `with` block runs."""
        with self._changed:
            self._aside += 1
        try:
            yield
        finally:
            with self._changed:
                self._aside -= 1
                self._changed.notify_all()

    def done(self) -> int:
        """Return the number of ids that have their tag."""
        with self._changed:
            return self._done

    def ready(self, seconds: float) -> bool:
        """Wait at most this long, and return whether `wait` would end at once."""
        self.start()
        with self._changed:
            return self._changed.wait_for(
                lambda: self._stopping or self._done == len(self._ids), seconds
            )

    def wait(self) -> None:
        """Wait until all pairs are computed; start if necessary. Raise what a thread raised."""
        self.start()
        self._join()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop after the slices in progress."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._join()

    def _join(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._running)

    def _submit(self) -> None:
        """Queue one slice. If the program is ending, the pool refuses it and the work ends."""
        try:
            shared_pool().submit(self._run)
        except RuntimeError as failure:
            self._end(failure)

    def _run(self) -> None:
        """Compute slices for a moment and then queue the rest, so that a program that ends waits
        for a moment only.
        """
        ends = time.monotonic() + _MOMENT
        try:
            while (positions := self._next()) is not None:
                pairs = self._compute(self._ids.pick(positions))
                self._take(positions, pairs)
                if time.monotonic() > ends:
                    break
        except BaseException as failure:  # handed to the thread that waits
            self._end(failure)
            return
        if positions is None:
            self._end()
        else:
            self._submit()

    def _take(self, positions: Sequence[int], pairs: bytes) -> None:
        with self._changed:
            self._deliver(positions, pairs)
            self._done += len(positions)
            if self._done == len(self._ids):
                self._changed.notify_all()

    def _end(self, failure: BaseException | None = None) -> None:
        with self._changed:
            self._running -= 1
            if failure is not None:
                self._failure = self._failure or failure
                self._stopping = True
            self._changed.notify_all()

    def _next(self) -> Sequence[int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._aside)
            return None if self._stopping else next(self._slices, None)
