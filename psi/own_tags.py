"""The signer's own tags, computed in the background. Knows threads; not how a tag is made.

Half of the signer's work needs nothing from the peer. It runs while the requester blinds and
while bytes travel, in small slices, and steps aside whenever a chunk of the peer is being signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Thread

from psi.ids import OwnIds

Compute = Callable[[list[str]], bytes]
Deliver = Callable[[Sequence[int], bytes], None]


class OwnTags:
    """Makes the pairs (tag, match proof) of own ids, slice by slice.

    Args:
        ids: the ids.
        todo: the positions of those that have no pair yet.
        compute: gives the pairs of a slice, one after the other.
        deliver: takes the positions of a slice and its pairs; never called twice at once.
        workers: how many slices at once.
        slice_ids: ids in a slice; the peer waits for one slice at most.
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
        needed = min(workers, -(-len(todo) // slice_ids))
        self._threads = [
            Thread(target=self._run, name=f"psi-tags-{i}", daemon=True) for i in range(needed)
        ]
        self._started = False

    def start(self) -> None:
        """Begin; a second call changes nothing."""
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()

    @contextmanager
    def step_aside(self) -> Iterator[None]:
        """Inside, no new slice begins."""
        with self._changed:
            self._aside += 1
        try:
            yield
        finally:
            with self._changed:
                self._aside -= 1
                self._changed.notify_all()

    def done(self) -> int:
        """How many ids have their tag."""
        with self._changed:
            return self._done

    def ready(self, seconds: float) -> bool:
        """Wait for at most so long; whether `wait` would return or raise at once."""
        self.start()
        with self._changed:
            return self._changed.wait_for(
                lambda: self._stopping or self._done == len(self._ids), seconds
            )

    def wait(self) -> None:
        """Return once all are made; begins if nobody did. Raises what a thread raised."""
        self.start()
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End after the slices in progress."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._started:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        try:
            while (positions := self._next()) is not None:
                pairs = self._compute(self._ids.pick(positions))
                with self._changed:
                    self._deliver(positions, pairs)
                    self._done += len(positions)
                    if self._done == len(self._ids):
                        self._changed.notify_all()
        except BaseException as failure:  # handed to the thread that waits
            with self._changed:
                self._failure = self._failure or failure
                self._stopping = True
                self._changed.notify_all()

    def _next(self) -> Sequence[int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._aside)
            return None if self._stopping else next(self._slices, None)
