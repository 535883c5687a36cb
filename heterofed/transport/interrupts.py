"""Puts Ctrl-C and SIGTERM off while frames are handed over.

An exception between the moment when the transport has taken a frame and the moment when this is
noted would have the frame sent twice, and the peer would blame this party for it.
"""

from __future__ import annotations

import threading
from types import TracebackType


class _State(threading.local):
    """The state of one thread.

    Attributes:
        depth: the number of blocks that the thread is in.
        pending: the error to raise after the outermost block.
    """

    depth = 0
    pending: BaseException | None = None


class Uninterrupted:
    """A block in which `interrupt` raises nothing; it does so when the outermost block ends."""

    def __init__(self) -> None:
        self._state = _State()

    def __enter__(self) -> None:
        self._state.depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        state = self._state
        state.depth -= 1
        if not state.depth and state.pending is not None:
            pending, state.pending = state.pending, None
            raise pending

    def interrupt(self, error: BaseException) -> None:
        """Raise an error, for a signal handler: at once, or when the outermost block ends."""
        if not self._state.depth:
            raise error
        self._state.pending = error


UNINTERRUPTED = Uninterrupted()
"""The one that all connections of this process use."""
