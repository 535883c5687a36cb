"""Stops in the debugger at the hook of a batch."""

from __future__ import annotations

import functools
import pdb
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from heterofed.runs.run import Run

HOOKS = ("train_a_batch", "iterate_train_feature")
"""The hooks that run for a train batch: the Host trains on it, and a Collaborator yields it."""


@contextmanager
def stopping_at(owner: Any, run: Run, round_number: int, batch: int) -> Iterator[None]:
    """Stop at the first line of the user's hook for a batch, within the block.

    Args:
        owner: the scheduler.
        run: the run, which says which batch it is.
        round_number: the number of the round.
        batch: the number of the batch.
    """
    hook = next(each for each in HOOKS if hasattr(owner, each))
    original = getattr(owner, hook)

    def is_due() -> bool:
        return run.round == round_number and run.party.batch == batch

    @functools.wraps(original)
    def trained(*args: Any, **kwargs: Any) -> Any:
        return _stopped(original, *args, **kwargs) if is_due() else original(*args, **kwargs)

    @functools.wraps(original)
    def yielded(*args: Any, **kwargs: Any) -> Iterator[Any]:
        items = iter(original(*args, **kwargs))
        while True:
            try:
                item = _stopped(next, items) if is_due() else next(items)
            except StopIteration:
                return
            yield item

    setattr(owner, hook, trained if hook == "train_a_batch" else yielded)
    try:
        yield
    finally:
        delattr(owner, hook)


def _stopped(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return pdb.Pdb(nosigint=True).runcall(call, *args, **kwargs)
