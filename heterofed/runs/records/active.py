"""Lets a replay take over the next launch of a task in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from heterofed.runs.task import Task

TakesOver: TypeAlias = "Callable[[Task, str], None]"
_takes: list[TakesOver] = []


class LaunchReplacedError(BaseException):
    """Ends a launch that a replay has taken over; no `except Exception` stops it."""


def may_take_over(task: Task, task_id: str) -> None:
    """Let a replay do its work in place of a launch, if there is a replay.

    Raises:
        LaunchReplacedError: there is one, and its work is done.
    """
    if _takes:
        _takes[-1](task, task_id)
        raise LaunchReplacedError


@contextmanager
def taking_over(takes: TakesOver) -> Iterator[None]:
    """Let `takes` be called in place of each launch of this process during the block."""
    _takes.append(takes)
    try:
        yield
    finally:
        _takes.remove(takes)
