"""Calls hooks under random streams of their own, so that each run draws the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from heterofed.compute.streams import random_stream
from heterofed.runs.hook_calls import HookCalls
from heterofed.runs.run import Run

T = TypeVar("T")


class SeededHooks(HookCalls):
    """Calls the hooks of one party within one run.

    Args:
        owner: the scheduler whose hooks are called.
        run: the run in which they are called.
        key: the party's feature key, which names its random streams.
        name: the name of the party in logs.
    """

    def __init__(self, owner: object, run: Run, key: str, name: str) -> None:
        super().__init__(owner, run, name)
        self._key = key

    def seeded(self, hook: str, *args: Any, **kwargs: Any) -> Any:
        """Call a hook under its own random stream of this round and batch."""
        return self.seeded_as(hook, getattr(self._owner, hook), *args, **kwargs)

    def seeded_as(
        self, hook: str, call: Callable[..., T], *args: Any, also: str = "", **kwargs: Any
    ) -> T:
        """Call a function in place of a hook, as the hook would be called.

        `also` is part of the name of its random stream.
        """
        run = self._run
        batch = (run.maybe_party.batch if run.maybe_party else None) or 0
        path = (self._key, hook, run.round, batch)
        with random_stream(run.seed, *path, *filter(None, (also,))):
            return self.call_as(hook, call, *args, **kwargs)
