"""The signer's own tags, computed in the background. Knows threads; not how a tag is made.

Half of the signer's work needs nothing from the peer. It runs while the requester blinds and
while bytes travel, in small slices, and steps aside whenever a chunk of the peer is being signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Thread

_SLICE = 64  # ids per step: some 16 ms, the longest that a chunk of the peer waits

Pairs = list[tuple[bytes, bytes]]


class OwnTags:
    """(tag, match proof) of every own id, in order of the ids."""

    def __init__(
        self, ids: Sequence[str], compute: Callable[[Sequence[str]], Pairs], workers: int
    ) -> None:
        self._ids = ids
        self._compute = compute
        self._starts = iter(range(0, len(ids), _SLICE))
        self._found: dict[int, Pairs] = {}
        self._failure: BaseException | None = None
        self._aside = 0
        self._stopping = False
        self._changed = Condition()
        needed = min(workers, -(-len(ids) // _SLICE))
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
            return sum(map(len, self._found.values()))

    def wait(self) -> Pairs:
        """All pairs; begins if nobody did, and waits. Raises what a thread raised."""
        self.start()
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return [pair for start in sorted(self._found) for pair in self._found[start]]

    def stop(self) -> None:
        """End after the slices in progress and forget everything."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._started:
            for thread in self._threads:
                thread.join()
        self._found.clear()

    def _run(self) -> None:
        while (start := self._next()) is not None:
            try:
                pairs = self._compute(self._ids[start : start + _SLICE])
            except BaseException as failure:  # handed to the thread that waits
                with self._changed:
                    self._failure = self._failure or failure
                    self._stopping = True
                return
            with self._changed:
                self._found[start] = pairs

    def _next(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._aside)
            return None if self._stopping else next(self._starts, None)
